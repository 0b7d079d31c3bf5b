"""The whole family in one submit, on images that a user prepared from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import models

from effnet_cluster.datasets import Manifest

from .conftest import Cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
CLASSES = 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of 3 × 20 real handwritten digits."""
    root = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for digit in range(CLASSES):
        folder = root / f"class{digit}"
        folder.mkdir()
        for number, pixels in enumerate(digits.images[digits.target == digit][:20]):
            Image.fromarray((pixels * 15.9).astype("uint8")).resize((32, 32)).save(folder / f"{number}.png")
    return root


def spoil_a_sample(shards: Path) -> str:
    """Overwrite one training image by zeros, as a bad disk might; returns its key."""
    manifest = Manifest.load(shards)
    train = manifest.split("train")
    shard = manifest.root / train.shards[train.shard[5]].name
    with shard.open("r+b") as file:
        file.seek(int(train.offset[5]))
        file.write(bytes(int(train.size[5])))
    return train.key(5)


@pytest.mark.parametrize("last", [1, pytest.param(7, marks=pytest.mark.long)])
def test_variants_train_and_compare(cli: Cli, photos: Path, tmp_path: Path, last: int) -> None:
    name = f"family-{last}"
    shards = tmp_path / "shards"
    assert "48 train, 12 val" in cli("data", "prepare", str(photos), str(shards), "--name", "threes").stdout
    key = spoil_a_sample(shards)
    args = ("--data", str(shards), "--image-size", "32", "--epochs", "1", "--global-batch", "16", "--workers", "2")
    args = (*args, "--on-corrupt", "skip")
    cli("submit", "--variants", f"b0-b{last}", *args, "--name", name)
    rows = json.loads(cli("compare", name, "--format", "json").stdout)
    assert [row["variant"] for row in rows] == [f"b{number}" for number in range(last + 1)]
    for row in rows:
        assert row["outcome"] == "completed"
        with torch.device("meta"):
            reference = getattr(models, f"efficientnet_{row['variant']}")(num_classes=CLASSES)
        expected = sum(parameter.numel() for parameter in reference.parameters())
        assert row["params"] == expected
        assert row["params_ratio"] == pytest.approx(expected / rows[0]["params"])
    runs = cli.trial_runs(name)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert all(run.data.tags["effnet.model_uri"].startswith("models:/") for run in runs.values())
    assert {run.data.metrics["check/ranks_equal"] for run in runs.values()} == {2.0}
    assert {run.data.metrics["data/corrupt"] for run in runs.values()} == {1.0}
    assert cli("logs", name).stdout.count(f"sample {key}: ") == len(runs)
    table = cli("compare", name).stdout
    assert table.count("ratio") == 2
    assert all(f"threes-b{number}-silu-s0" in table for number in range(last + 1))
