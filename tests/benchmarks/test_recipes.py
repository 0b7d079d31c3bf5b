"""The photographs' cells, and what is told of several trainings."""

from pathlib import Path

import pytest

from effnet_cluster.benchmarks.recipes import Run, measure, photo_crops, summary
from effnet_cluster.datasets import verify_shards


def test_ten_photographs_are_half_train_and_half_val(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    manifest = photo_crops(tmp_path)
    assert len(manifest.classes) == 10
    assert [len(manifest.split(name)) for name in ("train", "val")] == [180, 180]
    assert not list(verify_shards(manifest))
    cells = [{path.name for path in (tmp_path / "cells" / name / "flower").iterdir()} for name in ("train", "val")]
    assert not cells[0] & cells[1]


def test_the_last_epoch_counts_not_the_best() -> None:
    runs = [Run("basic", "b0", seed, (0.9, last), 1.0) for seed, last in enumerate((0.5, 0.1, 0.4))]
    found = summary(runs)
    assert (found.median, found.low, found.high, found.runs) == (0.4, 0.1, 0.5, 3)
    with pytest.raises(ValueError, match="nothing was trained"):
        summary([])


def test_a_seed_trains_the_same_again(one_thread: None) -> None:
    pytest.importorskip("skimage")
    recipe = {"epochs": 1, "global_batch": 90, "ema": 0.9}
    first, again = (next(measure("photos", "b0-w0.25-d0.25", recipe, [3], image_size=32)) for _ in range(2))
    assert first.top1 == again.top1
    assert len(first.top1) == 1
