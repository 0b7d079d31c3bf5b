"""A set in ImageNet's layout through a study, from torchvision's weights in a filled cache: a hundred classes."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from effnet_cluster.effnet.pretrained import PRETRAINED, HubFile

from .conftest import COMMAND, Cli

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(5400)]
CLASSES, EACH, SIDE = 100, 20, 64
VARIANTS = {"b0": "efficientnet_b0", "b1": "efficientnet_b1", "resnet18": "resnet18"}
VARIANTS["mobilenet_v3_small"] = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named like WordNet's synsets, each of one hue and orientation of stripes."""
    root = tmp_path_factory.mktemp("imagenet")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for number in range(CLASSES):
        folder = root / f"n{number:08d}"
        folder.mkdir()
        hue, angle = divmod(number, 10)
        wave = np.sin(2 * np.pi * 6 * (x * np.cos(angle * np.pi / 10) + y * np.sin(angle * np.pi / 10)))
        for image in range(EACH):
            color = 0.5 + 0.5 * np.cos(2 * np.pi * (hue / 10 + np.arange(3) / 3))
            pixels = (0.5 + 0.4 * wave)[..., None] * color + random.normal(0, 0.1, (SIDE, SIDE, 3))
            Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(folder / f"{image}.JPEG")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch.hub's folder with torchvision's networks, of random weights, under their published names."""
    home = tmp_path_factory.mktemp("torch")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name, theirs in VARIANTS.items():
        origin = PRETRAINED[name].origin
        assert isinstance(origin, HubFile)
        torch.save(models.get_model(theirs).state_dict(), folder / origin.url.rpartition("/")[2])
    return home


def test_a_hundred_classes_go_through_the_family_from_weights_in_the_cache(
    images: Path, cache: Path, tmp_path: Path
) -> None:
    cli = Cli(tmp_path / "home")
    cli.home.mkdir()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = cli.env | {"TORCH_HOME": str(cache), "EFFNET_CLUSTER_STUDY_PROBE": "false"}
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, cwd=cli.home, env=env, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    try:
        call("data", "prepare", str(images), "shards")
        flags = ("--data", "shards", "--pretrained", "--epochs", "2", "--seeds", "0-1", "--name", "hundred")
        told = call("study", "family", "--variants", ",".join(VARIANTS), *flags)
        assert "2 seeds cannot tell any of 3 compared pairs apart" in told.stderr
        rows = list(csv.DictReader(call("compare", "hundred", "--format", "csv").stdout.splitlines()))
        assert len(rows) == 2 * len(VARIANTS)
        assert {row["outcome"] for row in rows} == {"completed"}
        assert max(float(row["top1"]) for row in rows) > 10 / CLASSES
        call("report", "hundred", "--out", "report.html", "--published")
        page = (cli.home / "report.html").read_text()
        assert all(name in page for name in VARIANTS)
        assert "Study: The family" in page
    finally:
        call("down", "--force")
    assert cli.services() == {}
