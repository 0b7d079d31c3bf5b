"""`resume` goes on with the data that an experiment was planned with, and with no others."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effnet_cluster.cluster import lifecycle
from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.datasets import Manifest, prepare
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec

from ..datasets.servers import http_server
from .conftest import Cli

ENGINES = Engines("http://127.0.0.1:1", "http://127.0.0.1:1", local_ray=False, local_mlflow=False)


class Reached(Exception):
    """The engines would be asked now: the data are in order."""


def draw(folder: Path, count: int, side: int = 40, seed: int = 0) -> None:
    """Write so many pictures of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng([seed, number, *folder.name.encode()])
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{number}.png")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("fern", "oak", "rose"):
        draw(tmp_path / "source" / name, 6)
    return tmp_path / "source"


@pytest.fixture
def resume(cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Resume the experiment as a person does; the error of a refusal, or nothing where it goes on."""

    def reached(*_: object) -> None:
        raise Reached

    def call() -> str:
        monkeypatch.setattr(lifecycle, "reconnect", reached)
        try:
            result = cli("resume", "flowers")
        except Reached:
            return ""
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
        return result.stderr

    return call


def record(home: Home, data: str, manifest: Manifest) -> None:
    """An experiment on these data, as `submit` records it."""
    fields = {"name": "flowers", "data": data, "variants": "b0", "recipe": {"global_batch": 4}}
    request = ExperimentRequest(
        uid="u",
        job="flowers",
        plan=make_plan(ExperimentSpec.parse(fields), manifest),
        tracking_uri=ENGINES.tracking_uri,
        storage="/x",
        cache_root=str(home.cache),
    )
    experiments = Experiments(home)
    experiments.save(experiments.new(request, ENGINES))


def more_classes(source: Path) -> dict[str, Any]:
    draw(source / "tulip", 6)
    return {}


def fewer_classes(source: Path) -> dict[str, Any]:
    shutil.rmtree(source / "fern")
    return {}


def another_class(source: Path) -> dict[str, Any]:
    (source / "fern").rename(source / "moss")
    return {}


def more_images(source: Path) -> dict[str, Any]:
    draw(source / "oak", 6, seed=1)
    return {}


def other_images(source: Path) -> dict[str, Any]:
    for name in ("fern", "oak", "rose"):
        shutil.rmtree(source / name)
        draw(source / name, 6, seed=1)
    return {}


def larger_images(source: Path) -> dict[str, Any]:
    for name in ("fern", "oak", "rose"):
        shutil.rmtree(source / name)
        draw(source / name, 6, side=64)
    return {}


CHANGES: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (more_classes, "classes new: tulip; "),
    (fewer_classes, "classes gone: fern; "),
    (another_class, "classes new: moss; classes gone: fern"),
    (more_images, "train has "),
    (other_images, "train has other shards; val has other shards; "),
    (larger_images, "their median side is 64 px, not 40; "),
    (lambda _: {"val_fraction": 0.5}, "train has 9 images, not 15; val has 9 images, not 3; "),
    (lambda _: {"samples_per_shard": 2}, " shards, not 1; "),
    (lambda _: {"seed": 1}, "train has other shards; "),
    (lambda _: {"mirror_safe": False}, "; mirrored images lose their class now; "),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_data_that_were_prepared_anew_are_refused_with_what_has_changed(
    change: Callable[[Path], dict[str, Any]],
    told: str,
    source: Path,
    home: Home,
    resume: Callable[[], str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "shards"
    before = prepare(source, out)
    record(home, str(out), before)
    shutil.rmtree(out)
    now = prepare(source, out, **change(source))
    error = resume()
    assert error.startswith(f"error: {out} no longer holds the data of 'flowers': ")
    assert f"digest {now.digest[:12]}, not {before.digest[:12]}; " in error
    assert told in error
    assert error.endswith("; bring them back, or submit another experiment\n")


def unchanged(source: Path, out: Path) -> None:
    """As they were."""


def made_again(source: Path, out: Path) -> None:
    shutil.rmtree(out)
    prepare(source, out)


def renamed(source: Path, out: Path) -> None:
    shutil.rmtree(out)
    prepare(source, out, name="another name")  # which changes nothing that is trained


def moved_and_linked(source: Path, out: Path) -> None:
    out.rename(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


@pytest.mark.parametrize("change", [unchanged, made_again, renamed, moved_and_linked])
def test_the_same_data_go_on_however_they_came_there(
    change: Callable[[Path, Path], None], source: Path, home: Home, resume: Callable[[], str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    record(home, str(out), prepare(source, out))
    change(source, out)
    assert resume() == ""


def gone(out: Path) -> None:
    shutil.rmtree(out)


def moved(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))


def emptied(out: Path) -> None:
    gone(out)
    out.mkdir()


def damaged(out: Path) -> None:
    (out / "index.npz").write_bytes(b"")


@pytest.mark.parametrize("change", [gone, moved, emptied, damaged])
def test_data_that_are_not_there_are_named_with_their_digest(
    change: Callable[[Path], None], source: Path, home: Home, resume: Callable[[], str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    manifest = prepare(source, out)
    record(home, str(out), manifest)
    change(out)
    assert resume().startswith(f"error: the data of 'flowers', digest {manifest.digest[:12]}, cannot be opened: {out}")


def test_remote_data_are_looked_at_too(source: Path, home: Home, resume: Callable[[], str], tmp_path: Path) -> None:
    out = tmp_path / "shards"
    manifest = prepare(source, out)
    with http_server(tmp_path) as (address, _):
        record(home, f"{address}/shards", manifest)
        assert resume() == ""
        shutil.rmtree(out)
        prepare(source, out, mirror_safe=False)
        assert resume().startswith(f"error: {address}/shards no longer holds the data of 'flowers': ")


def test_the_embedded_digits_go_on_where_there_is_a_folder_of_that_name(
    home: Home, resume: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home, "digits", home.open_dataset("digits"))
    (tmp_path / "here" / "digits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert resume() == ""


def test_what_no_number_tells_is_told_too(source: Path, tmp_path: Path) -> None:
    manifest = prepare(source, tmp_path / "shards")
    spec = ExperimentSpec.parse({"name": "flowers", "variants": "b0", "recipe": {"global_batch": 4}})
    plan = make_plan(spec, manifest)
    train = manifest.splits["train"]
    turned = dataclasses.replace(train, label=train.label[::-1].copy())
    for changes, told in (
        ({"classes": manifest.classes[::-1]}, "the classes stand in another order"),
        ({"splits": {**manifest.splits, "train": turned}}, "labels or keys of images differ"),
        ({"splits": {**manifest.splits, "test": train}}, "split test is new"),
        ({"splits": {"train": train}}, "split val is gone"),
        ({"classes": tuple(f"c{number}" for number in range(12))}, "classes new: c0, c1, c10, c11, c2 and 7 more"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            plan.require_data(dataclasses.replace(manifest, **changes))
        assert "\n" not in str(caught.value)
    plan.require_data(dataclasses.replace(manifest, root=tmp_path, name="another"))


def test_a_record_of_an_earlier_version_is_compared_by_its_digest(
    source: Path, home: Home, resume: Callable[[], str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    record(home, str(out), prepare(source, out))
    file = Experiments(home).folder("flowers") / "record.json"
    fields = json.loads(file.read_text())
    del fields["request"]["plan"]["data_facts"]
    file.write_text(json.dumps(fields))
    assert resume() == ""
    shutil.rmtree(out)
    prepare(source, out, mirror_safe=False)
    assert "; the record does not say more; " in resume()
