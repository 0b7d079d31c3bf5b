"""`predict` on what people have: any picture format, folders, patterns, and files of which some are bad."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image, features

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.training.checkpoint import encode
from effnet_cluster.orchestration.training.model_facts import ModelFacts

from .conftest import Cli

pytestmark = pytest.mark.usefixtures("one_thread")

Predict = Callable[..., Result]


def picture(seed: int = 0) -> Image.Image:
    """A smooth picture of a few colours, which every format can hold."""
    values = np.random.default_rng(seed).integers(0, 4, (3, 4), dtype=np.uint8) * 80
    gray = Image.fromarray(values).resize((64, 48), Image.Resampling.NEAREST)
    return Image.merge("RGB", (gray, gray.transpose(Image.Transpose.FLIP_LEFT_RIGHT), gray))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network that nobody has trained."""
    torch.manual_seed(0)
    config = variant("b0", width=0.3, depth=0.3, num_classes=3)
    facts = ModelFacts(config, ("daisy", "oak", "rose"), 48, 56)
    return save(tmp_path_factory.mktemp("model"), EfficientNet(config).state_dict(), facts)


def save(folder: Path, weights: dict[str, torch.Tensor], facts: ModelFacts) -> Path:
    path = folder / "epoch-000001-batch-000000000.pt"
    path.write_bytes(encode({"model": weights, "ema": None, "facts": facts.to_dict()}))
    return path


@pytest.fixture
def predict(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Call `predict` in a folder of the test's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *arguments: cli("predict", *arguments, "--model", model)


def make(*paths: str) -> None:
    """Write pictures, and into `*.txt` text."""
    for number, name in enumerate(paths):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            Path(name).write_text("notes")
        else:
            picture(number).save(name, "PNG")


def predicted(result: Result) -> dict[str, Any]:
    """By image, the best class's probability, or the error."""
    rows = json.loads(result.stdout)
    return {row["image"]: row["error"] if "error" in row else row["predictions"][0]["probability"] for row in rows}


FORMATS: list[tuple[str, str, dict[str, Any]]] = [
    ("x.bmp", "BMP", {}),
    ("x.gif", "GIF", {}),
    ("x.tif", "TIFF", {}),
    ("x.tiff", "TIFF", {"compression": "tiff_lzw"}),
    ("x.webp", "WEBP", {"lossless": True}),
    ("x.ppm", "PPM", {}),
    ("x.jpg", "PNG", {}),
    ("x", "PNG", {}),
    ("x.dat", "TIFF", {}),
    ("x.JPG", "JPEG", {"quality": 98, "subsampling": 0}),
    ("x.avif", "AVIF", {"quality": 98, "subsampling": "4:4:4"}),
]


@pytest.mark.parametrize(("name", "form", "options"), FORMATS, ids=[f"{case[1]} in {case[0]}" for case in FORMATS])
def test_every_format_is_seen_as_in_prepare(name: str, form: str, options: dict[str, Any], predict: Predict) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    lossy = form in ("JPEG", "AVIF")
    picture().save("same.png")
    picture().save(name, form, **options)
    result = predict("same.png", name, "--json")
    assert result.exit_code == 0, result.stderr
    found = predicted(result)
    assert found[name] == pytest.approx(found["same.png"], abs=0.02 if lossy else 1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_kind_of_pixel_is_taken(mode: str, predict: Predict) -> None:
    source = picture().convert("L") if mode == "I;16" else picture()
    source.convert(mode).save("x.tif")
    assert predict("x.tif").exit_code == 0


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def text(path: Path) -> None:
    path.write_text("no picture")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_without_images(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "notes.txt").write_text("notes")


def header_alone(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n")


BAD: list[tuple[Callable[[Path], None], str]] = [
    (truncated, "damaged image: "),
    (text, "not an image that can be read"),
    (empty, "not an image that can be read"),
    (header_alone, ""),
    (missing, "no such file"),
    (broken_link, "is no file"),
    (pipe, "is no file"),
    (folder_without_images, "a folder without images"),
]


@pytest.mark.parametrize(("spoil", "told"), BAD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_file_is_one_line_and_the_others_are_classified(
    spoil: Callable[[Path], None], told: str, place: int, predict: Predict
) -> None:
    names = ["a.png", "b.png", "c.png"]
    make(*names)
    expected = predicted(predict(*names, "--json"))
    spoil(Path(names[place]))
    result = predict(*names)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if not line.startswith("1 files ignored: 1 no image")]
    assert [line.startswith(f"error: {names[place]}: {told}") for line in errors] == [True]
    assert [name in result.stdout for name in names] == [number != place for number in range(3)]
    found = predicted(predict(*names, "--json"))
    assert list(found) == names
    assert told in found.pop(names[place])
    assert found == {name: pytest.approx(expected[name], abs=1e-6) for name in found}


def test_many_bad_files_are_a_line_each_and_their_order_is_kept(predict: Predict) -> None:
    names = [f"{number:02d}.png" for number in range(40)]  # more than a batch
    make(*names)
    bad = names[3:30:4]
    for name in bad:
        text(Path(name))
    result = predict(*names, "--json")
    assert result.exit_code == 1
    assert list(found := predicted(result)) == names
    assert [name for name in names if isinstance(found[name], str)] == bad
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == bad


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_nothing_but_bad_files_prints_no_table(flags: list[str], predict: Predict) -> None:
    Path("x.png").write_text("no picture")
    result = predict("x.png", "y.png", *flags)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 2
    if flags:
        assert list(predicted(result)) == ["x.png", "y.png"]
    else:
        assert result.stdout == ""


def test_a_picture_is_written_of_every_good_file(predict: Predict) -> None:
    make("a.png", "b.png", "c.png")
    text(Path("b.png"))
    result = predict("a.png", "b.png", "c.png", "--cam", "--out", "maps", "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [row["image"] for row in rows if "cam" in row] == ["a.png", "c.png"]
    assert rows[1].keys() == {"image", "error"}
    assert {row["cam"] for row in rows if row.get("cam")} == {str(path) for path in Path("maps").glob("*")}


TREE = (
    *("p/10.png", "p/2.png", "p/deep/x.jpg", "p/deep/er/y"),
    *("p/.hidden.png", "p/.git/z.png", "p/notes.txt", "p/@eaDir/t.jpg"),
)


@pytest.mark.parametrize("argument", ["p", "p/", "./p", "{here}/p"])
def test_a_folder_is_its_images_at_any_depth_and_the_rest_is_counted(argument: str, predict: Predict) -> None:
    make(*TREE)
    result = predict(argument.format(here=Path.cwd()), "--json")
    assert result.exit_code == 0
    root = Path(argument.format(here=Path.cwd()))
    assert list(predicted(result)) == [str(root / name) for name in ("2.png", "10.png", "deep/x.jpg", "deep/er/y")]
    kinds = re.fullmatch(r"4 files ignored: (.*)\n", result.stderr)
    assert kinds is not None, result.stderr
    assert sorted(kinds[1].split(", ")) == ["1 left by a system", "1 no image", "2 hidden"]


@pytest.mark.parametrize(
    ("there", "argument", "found"),
    [
        (["a.png", "b.png", "c.jpg"], "*.png", ["a.png", "b.png"]),
        (["10.png", "9.png", "100.png"], "*.png", ["9.png", "10.png", "100.png"]),
        (["p/a.png", "p/d/b.png"], "p/*", ["p/a.png", "p/d/b.png"]),
        (["p/a.png", "p/d/b.png"], "p/**/*.png", ["p/a.png", "p/d/b.png"]),
        (["p1/a.png", "p2/a.png", "q/a.png"], "p?", ["p1/a.png", "p2/a.png"]),
        (["a.png", ".b.png"], "*.png", ["a.png"]),
        (["b[1]/x.jpg", "b[1]/y.png"], "b[1]/*.jpg", ["b[1]/x.jpg"]),
        (["b[1]/x.jpg", "b1/x.jpg"], "b[1]/*.jpg", ["b[1]/x.jpg"]),
        (["b1/x.jpg", "b2/x.jpg"], "b[1]/*.jpg", ["b1/x.jpg"]),
        (["[a]/x.jpg", "a/x.jpg"], "[a]/x.jpg", ["[a]/x.jpg"]),
        (["[a]/x.jpg", "a/x.jpg"], "[a]", ["[a]/x.jpg"]),
        (["x*.png", "xy.png"], "x*.png", ["x*.png"]),
        (["what?.png", "whats.png"], "what?.png", ["what?.png"]),
        ([".hidden.png"], ".hidden.png", [".hidden.png"]),
    ],
)
def test_a_pattern_is_one_only_where_nothing_has_that_name(
    there: list[str], argument: str, found: list[str], predict: Predict
) -> None:
    make(*there)
    result = predict(argument, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert list(predicted(result)) == found


@pytest.mark.parametrize("argument", ["*.gif", "b[2]/*.jpg", "nowhere/*", "b[1]/*.gif", "**/*.gif"])
def test_a_pattern_that_matches_nothing_is_one_line(argument: str, predict: Predict) -> None:
    make("a.png", "b[1]/x.jpg")
    result = predict("a.png", argument)
    assert result.exit_code == 1
    assert result.stderr == f"error: {argument}: no such file\n"
    assert "a.png" in result.stdout


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda weight: weight.fill_(torch.nan), "'classifier.weight' of the effnet state dict holds NaN or infinite"),
        (lambda weight: weight.long(), "'classifier.weight' of the effnet state dict holds int64 values"),
        (lambda weight: weight[:2], r"'classifier.weight' of the effnet state dict has the shape \(2, "),
    ],
)
def test_weights_that_cannot_predict_are_refused_by_name(
    spoil: Callable[[torch.Tensor], torch.Tensor], told: str, cli: Cli, tmp_path: Path
) -> None:
    config = variant("b0", width=0.3, depth=0.3, num_classes=3)
    weights = EfficientNet(config).state_dict()
    weights["classifier.weight"] = spoil(weights["classifier.weight"].clone())
    path = save(tmp_path, weights, ModelFacts(config, ("a", "b", "c"), 48, 56))
    picture().save(tmp_path / "x.png")
    result = cli("predict", tmp_path / "x.png", "--model", path)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert re.search(told, result.stderr)
