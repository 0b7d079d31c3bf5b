"""`predict` and `export`: from a model that the trainer wrote to what a user sees."""

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from effnet_cluster.cluster.cli import main
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.model_address import load_trained
from effnet_cluster.cluster.services import Services
from effnet_cluster.datasets import EvalTransform
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.report import sheet
from effnet_cluster.orchestration.report.overlay import heat_colors, overlay, seen_square
from effnet_cluster.orchestration.report.sheet import Seen
from effnet_cluster.orchestration.tracking.models import log_model, register_champion
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.trained import TrainedModel, export_trained
from effnet_cluster.orchestration.training.checkpoint import encode
from effnet_cluster.orchestration.training.classifier import NormalizedModel, ServedClassifier
from effnet_cluster.orchestration.training.model_facts import ModelFacts

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, RESIZE = 48, 56
CLASSES = ("daisy", "oak", "rose")


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    """A small model whose outputs depend on the image. The large epsilon keeps channels that hardly vary from
    amplifying what float32 rounds off."""
    torch.manual_seed(0)
    config = variant("b0", depth=0.1, width=0.5, num_classes=len(CLASSES), bn_eps=1e-2)
    network = EfficientNet(config)
    images = torch.stack([EvalTransform(SIDE, RESIZE)(photo(i)) for i in range(24)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        inputs = NormalizedModel(torch.nn.Identity())(images)
        network.train()(inputs)
        network.eval()
        features = network.features(inputs).mean((2, 3))
        network.classifier.weight.copy_(torch.randn(network.classifier.weight.shape) / features.std(0).norm())
        network.classifier.bias.copy_(-network.classifier(features.mean(0)))
    return TrainedModel("here", network, ModelFacts(config, CLASSES, SIDE, RESIZE))


def photo(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def saved(trained: TrainedModel, tmp_path: Path) -> Path:
    """A checkpoint's folder."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save(folder, trained, trained.facts.to_dict())
    return folder


def save(folder: Path, trained: TrainedModel, facts: dict[str, object]) -> None:
    state = {"model": trained.network.state_dict(), "ema": None, "facts": facts}
    (folder / "epoch-000001-batch-000000000.pt").write_bytes(encode(state))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "deep" / "a.png"]
    paths[2].parent.mkdir()
    for seed, (path, size) in enumerate(zip(paths, [(90, 70), (60, 130), (20, 31)], strict=True)):
        photo(seed, *size).save(path)
    return paths


def call(tmp_path: Path, *arguments: object) -> Result:
    env = {"EFFNET_CLUSTER_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=env)


def bilinear(trained: TrainedModel) -> TrainedModel:
    """The same, but of weights that were evaluated with bilinear resizing."""
    return replace(trained, facts=replace(trained.facts, interpolation="bilinear"))


def expected_probabilities(trained: TrainedModel, path: Path) -> list[float]:
    """As validation computes them."""
    with torch.no_grad(), Image.open(path) as image:
        batch = EvalTransform(SIDE, RESIZE, trained.facts.interpolation)(image.convert("RGB"))[None]
        values: list[float] = NormalizedModel(trained.network)(batch).softmax(1)[0].tolist()
    return values


def test_predict_says_what_validation_computes(
    trained: TrainedModel, saved: Path, photos: list[Path], tmp_path: Path
) -> None:
    result = call(tmp_path, "predict", *photos, "--model", saved, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [entry["image"] for entry in found] == list(map(str, photos))
    for entry, path in zip(found, photos, strict=True):
        by_class = dict(zip(CLASSES, expected_probabilities(trained, path), strict=True))
        ranked = [(p["class"], p["probability"]) for p in entry["predictions"]]
        assert ranked == [
            (name, pytest.approx(value, abs=1e-5)) for name, value in sorted(by_class.items(), key=lambda i: -i[1])
        ]
        assert "cam" not in entry
    save(saved, trained, bilinear(trained).facts.to_dict())
    other = json.loads(call(tmp_path, "predict", photos[0], "--model", saved, "--json").stdout)[0]["predictions"][0]
    expected = expected_probabilities(bilinear(trained), photos[0])[CLASSES.index(other["class"])]
    assert other["probability"] == pytest.approx(expected, abs=1e-5)
    assert other["probability"] != pytest.approx(found[0]["predictions"][0]["probability"], abs=1e-4)
    save(saved, trained, trained.facts.to_dict())
    table = call(tmp_path, "predict", photos[0], "--model", saved / "epoch-000001-batch-000000000.pt", "--top", 1)
    best = found[0]["predictions"][0]
    assert f"{best['class']}" in table.stdout
    assert f"{best['probability']:.4f}" in table.stdout
    assert sum(name in table.stdout for name in CLASSES) == 1


def test_cam_writes_no_picture_of_a_map_that_points_nowhere_and_says_so(
    trained: TrainedModel, photos: list[Path], tmp_path: Path
) -> None:
    network = copy.deepcopy(trained.network)
    torch.nn.init.zeros_(network.classifier.weight)  # no pixel speaks for or against a class
    save(tmp_path, TrainedModel("here", network, trained.facts), trained.facts.to_dict())
    model, out = tmp_path / "epoch-000001-batch-000000000.pt", tmp_path / "maps"
    result = call(tmp_path, "predict", photos[0], "--model", model, "--cam", "--class", "oak", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"no picture of {photos[0]}: its map for oak is the same everywhere" in result.stderr
    found = json.loads(call(tmp_path, "predict", photos[0], "--model", model, "--cam", "--out", out, "--json").stdout)
    assert [entry["cam"] for entry in found] == [None]
    assert not out.exists()


def test_cam_writes_a_picture_an_image(saved: Path, photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "maps"
    result = call(tmp_path, "predict", *photos, "--model", saved, "--cam", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [entry["cam"] for entry in found] == [str(out / f"{n}.png") for n in ("a-cam", "b-cam", "a-cam-1")]
    assert all(entry["cam_class"] == entry["predictions"][0]["class"] for entry in found)
    for entry in found:
        with Image.open(entry["cam"]) as picture:
            assert picture.mode == "RGB"
            assert picture.size == (224, 224)
    wanted = call(tmp_path, "predict", photos[0], "--model", saved, "--cam", "--class", "oak", "--out", out, "--json")
    assert json.loads(wanted.stdout)[0]["cam_class"] == "oak"
    beside = photos[0].with_name("a-cam.png")
    photos[0].rename(beside)
    beside.with_name("a.png").symlink_to(beside)
    both = call(
        tmp_path, "predict", beside.with_name("a.png"), beside, "--model", saved, "--cam", "--out", tmp_path, "--json"
    )
    assert [Path(e["cam"]).name for e in json.loads(both.stdout)] == ["a-cam-1.png", "a-cam-cam.png"]


def test_a_sheet_shows_what_is_said_of_each_image_and_files_that_are_none_are_left_out(
    saved: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[Sequence[Seen]] = []
    monkeypatch.setattr(sheet, "write_sheet", lambda seen, path: sheets.append(seen) or path.touch())
    (tmp_path / "c.png").write_text("no image")
    out = tmp_path / "sheet.png"
    files = [*photos, tmp_path / "c.png"]
    result = call(tmp_path, "predict", *files, "--model", saved, "--picture", out, "--json")
    assert result.exit_code == 1
    said = [entry for entry in json.loads(result.stdout) if "predictions" in entry]
    (shown,) = sheets
    assert [(one.name, [name for name, _ in one.ranked]) for one in shown] == [
        (Path(entry["image"]).name, [p["class"] for p in entry["predictions"]]) for entry in said
    ]
    assert {(one.overlay, one.explains) for one in shown} == {(None, None)}
    assert f"{out}  shows 3 images" in result.stderr
    call(tmp_path, "predict", *photos, "--model", saved, "--picture", out, "--cam", "--class", "oak", "--out", tmp_path)
    assert all(one.overlay and one.explains == "oak" for one in sheets[1])


def test_no_map_takes_the_name_of_the_sheet(saved: Path, photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / f"{photos[0].stem}-cam.png"
    flags = ("--cam", "--out", tmp_path, "--class", "oak", "--json")
    result = call(tmp_path, "predict", photos[0], "--model", saved, "--picture", out, *flags)
    (entry,) = json.loads(result.stdout)
    assert entry["cam"] == str(tmp_path / f"{photos[0].stem}-cam-1.png")
    with Image.open(entry["cam"]) as of_map, Image.open(out) as of_sheet:
        assert of_map.size == (224, 224) != of_sheet.size


def test_a_sheet_is_a_picture(saved: Path, photos: list[Path], tmp_path: Path) -> None:
    result = call(tmp_path, "predict", *photos, "--model", saved, "--picture", tmp_path / "new" / "sheet.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "new" / "sheet.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["predict", "{photo}", "--model", "{saved}", "--picture", "{tmp}/s.docx"],
            "error: {tmp}/s.docx: no picture ends in '.docx'",
        ),
        (
            ["predict", "{photo}", "--model", "{saved}", "--picture", "{photo}"],
            "error: --picture {photo}: that is one of the images",
        ),
        (
            ["predict", *["{photo}"] * 61, "--model", "{saved}", "--picture", "{tmp}/s.png"],
            "error: --picture: 61 images, and a sheet takes 60",
        ),
        (["predict", "{photo}", "--model", "{tmp}/none"], "error: --model {tmp}/none: no such file or folder"),
        (["predict", "{photo}", "--model", "nothing"], "error: --model nothing: no experiment 'nothing'; submit one"),
        (["predict", "{photo}", "--model", "{tmp}"], "error: {tmp} is no checkpoint: it has no *.pt"),
        (["predict", "{photo}", "--model", "{photo}"], "error: {photo} is no checkpoint, or a damaged one"),
        (["predict", "{tmp}/no.png", "--model", "{saved}"], "error: {tmp}/no.png: no such file"),
        (["predict", "/dev/null", "--model", "{saved}"], "error: /dev/null: is no file"),
        (["predict", "{corrupt}", "--model", "{saved}"], "error: {corrupt}: damaged image: "),
        (["predict", "{text}", "--model", "{saved}"], "error: {text}: not an image that can be read"),
        (
            ["predict", "{photo}", "--model", "{saved}", "--cam", "--class", "elm"],
            "error: unknown class 'elm'; the model knows daisy, oak, rose",
        ),
        (["predict", "{photo}", "--model", "{saved}", "--out", "x"], "error: --out is for the pictures that --cam"),
        (
            ["predict", "{photo}", "--model", "{saved}", "--cam", "--out", "{photo}"],
            "error: {photo}/a-cam.png: cannot be written",
        ),
        (
            ["predict", "{photo}", "--model", "models:/m@champion", "--tracking-uri", "http://127.0.0.1:9"],
            "error: --tracking-uri http://127.0.0.1:9: no answer",
        ),
        (
            ["export", "--model", "{saved}", "--format", "pt2", "--out", "{tmp}/x/m.pt2"],
            "error: --out {tmp}/x/m.pt2: the",
        ),
        (["export", "--model", "{saved}", "--format", "pt2", "--out", "{tmp}"], "error: --out {tmp}: is a folder"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, saved: Path, photos: list[Path], tmp_path: Path
) -> None:
    corrupt, text = tmp_path / "corrupt.png", tmp_path / "text.png"
    corrupt.write_bytes(photos[0].read_bytes()[:200])
    text.write_text("no image")
    names = {"tmp": tmp_path, "photo": photos[0], "saved": saved, "corrupt": corrupt, "text": text}
    result = call(tmp_path, *(argument.format(**names) for argument in arguments))
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith(message.format(**names))
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_weights_without_their_facts_are_refused(trained: TrainedModel, tmp_path: Path) -> None:
    save(tmp_path, trained, {})
    with pytest.raises(UserError, match="does not say which network its weights belong to"):
        load_trained(Home(tmp_path), str(tmp_path))
    facts = trained.facts.to_dict()
    save(tmp_path, trained, facts | {"classes": ["one"]})
    with pytest.raises(UserError, match="1 class names for 3 classes"):
        load_trained(Home(tmp_path), str(tmp_path))
    wider = variant("b0", depth=0.1, num_classes=3).to_dict()
    save(tmp_path, trained, facts | {"config": wider})
    with pytest.raises(UserError, match="holds no network that this version can build"):
        load_trained(Home(tmp_path), str(tmp_path))


def test_facts_survive_json(trained: TrainedModel) -> None:
    assert ModelFacts.from_dict(json.loads(json.dumps(trained.facts.to_dict()))) == trained.facts


def test_the_exported_onnx_is_the_served_model(
    trained: TrainedModel, saved: Path, photos: list[Path], tmp_path: Path
) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    result = call(tmp_path, "export", "--model", saved, "--format", "onnx", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}  ")
    assert not result.stderr
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    ]
    served = trained.served()
    # Twice, half, the same; with a margin of one pixel; high, wide.
    for count, width, height in ((1, 112, 112), (2, 24, 24), (5, SIDE, SIDE), (2, 57, 56), (1, 30, 200), (3, 333, 61)):
        pixels = np.stack([np.asarray(photo(seed, width, height)) for seed in range(count)])
        with torch.no_grad():
            expected = served(torch.from_numpy(pixels)).numpy()
        (actual,) = session.run(["probabilities"], {"images": pixels})
        assert actual.shape == (count, len(CLASSES))
        np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(actual.sum(1), 1, atol=1e-5)
    assert expected.std(0).min() > 0.01, "a model that ignores its images would agree too easily"
    notes = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert json.loads(notes["classes"]) == list(CLASSES)


@pytest.mark.parametrize(("form", "logits"), [("onnx", True), ("pt2", True), ("pt2", False)])
def test_the_other_forms(trained: TrainedModel, form: str, logits: bool, tmp_path: Path) -> None:
    trained = bilinear(trained)
    path = tmp_path / f"model.{form}"
    assert export_trained(trained, path, form, logits=logits) <= 1e-4  # type: ignore[arg-type]
    pixels = torch.from_numpy(np.array(photo(1, SIDE, SIDE) if logits else photo(1, 80, 60)))[None]
    images = NormalizedModel(torch.nn.Identity())(pixels.permute(0, 3, 1, 2)) if logits else pixels
    if form == "pt2":
        actual = torch.export.load(path).module()(images)
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        actual = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    with torch.no_grad():
        expected = trained.network(images) if logits else trained.served()(images)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_missing_packages_are_named_with_their_remedy(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = call(tmp_path, "export", "--model", saved, "--format", "onnx", "--out", tmp_path / "m.onnx")
    assert result.exit_code == 2
    line = "error: --format onnx needs more packages (onnxscript): pip install 'effnet-cluster[export]'\n"
    assert result.stderr == line
    assert not (tmp_path / "m.onnx").exists()


def test_the_colours_are_even_steps_of_lightness() -> None:
    """By the CIE's lightness, a measure other than the one that the ramp was made with."""
    colors = heat_colors(np.linspace(0, 1, 256)).astype(np.float64) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    steps = np.diff(lightness[::15])
    assert lightness[0] < 15
    assert lightness[-1] > 90
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_the_overlay_is_bright_where_the_map_is() -> None:
    values = np.zeros((4, 4), dtype=np.float32)
    values[0, 3] = 1
    picture = np.asarray(overlay(Image.new("RGB", (48, 48), (100, 100, 100)), values)).astype(int)
    assert picture.shape == (224, 224, 3)
    for row, column, value in ((-1, 0, 0.0), (0, -1, 1.0)):
        expected = 0.45 * 100 + 0.55 * heat_colors(np.float32(value)).astype(float)
        assert np.abs(picture[row, column] - expected).max() <= 0.5
    assert picture[0, -1].sum() > 2 * picture[-1, 0].sum()


@pytest.mark.parametrize("size", [(900, 700), (600, 1300), (20, 30), (48, 48), (490, 3000)])
def test_the_picture_shows_what_the_network_saw(size: tuple[int, int]) -> None:
    image = photo(3, *size)
    seen = seen_square(image, SIDE, RESIZE)
    assert seen.width == seen.height
    at_input_size = np.asarray(seen.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
    network_input = EvalTransform(SIDE, RESIZE)(image).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(at_input_size - network_input).mean() < 3  # of 255; the margins round


@pytest.mark.e2e
def test_a_logged_model_is_found_under_every_address(trained: TrainedModel, photos: list[Path], tmp_path: Path) -> None:
    """On a real MLflow server, which the command starts itself where none runs."""
    import mlflow

    home = Home(tmp_path / "home")
    try:
        uri = Services(home).ensure_mlflow().url
        tracker = Tracker(uri, "flowers", "uid-of-flowers")
        run_id = tracker.client.create_run(tracker.experiment_id).info.run_id
        served = ServedClassifier(trained.network, SIDE, RESIZE).eval()
        example = np.stack([np.asarray(photo(seed, SIDE, SIDE + 4)) for seed in range(2)])  # the trainer's
        uri_of_model = log_model(tracker, run_id, served, example, 0.5, trained.facts.to_dict())
        champion = register_champion(tracker, run_id, uri_of_model)

        pixels = torch.from_numpy(np.stack([np.asarray(photo(seed)) for seed in range(3)]))
        addresses = [champion, uri_of_model, f"runs:/{run_id}", "models:/flowers/1"]
        for address in addresses:
            found = load_trained(home, address)
            assert found.facts == trained.facts
            with torch.no_grad():
                torch.testing.assert_close(found.served()(pixels), served(pixels), atol=0, rtol=0)
        # The program itself, on sizes that it was not logged with: smaller, larger, and the crop's own.
        program = mlflow.pytorch.load_model(champion)
        for size in ((90, 70), (20, 31), (SIDE, SIDE), (SIDE, 80), (300, 57)):
            pixels = torch.from_numpy(np.array(photo(1, *size)))[None]
            with torch.no_grad():
                torch.testing.assert_close(program(pixels), served(pixels), atol=1e-6, rtol=0)
        by_name = load_trained(home, "flowers", uri)
        assert by_name.source == champion

        result = call(tmp_path, "predict", *photos, "--model", champion, "--cam", "--out", tmp_path, "--json")
        assert result.exit_code == 0, result.output
        for entry, path in zip(json.loads(result.stdout), photos, strict=True):
            best = max(expected_probabilities(trained, path))
            assert entry["predictions"][0]["probability"] == pytest.approx(best, abs=1e-5)
            assert Path(entry["cam"]).is_file()

        for address in (
            "models:/flowers@nobody",
            "models:/none@champion",
            "models:/flowers/7",
            "models:/m-0",
            "runs:/0/model",
        ):
            result = call(tmp_path, "predict", photos[0], "--model", address)
            assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
            assert result.stderr.startswith(f"error: no model {address} at MLflow server {uri}: ")
    finally:
        Services(home).stop("mlflow")
