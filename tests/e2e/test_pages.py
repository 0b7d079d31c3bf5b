"""The commands of README.md and docs/ as they stand, in the order of the pages, in one home, on real engines.

`tests/docs/test_commands.py` says which are marked and what becomes of them.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ..docs.pages import PAGES, blocks, spans
from ..photos import cut_photos
from .conftest import Cli, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
# What takes too long, and what stands in its place. Names stay as the pages have them.
SMALLER = {
    "--variants b0,b3 --activations silu,elu --seeds 0,1": (
        "--variants b0-w0.25-d0.25 --activations silu,elu --epochs 2 --name digits-b0-b3"
    ),
    "--variants b0-b3 --workers auto --epochs 50": "--variants b0-w0.25-d0.25 --workers auto --epochs 1",
}
EXPERIMENT, TRIAL = "digits-b0-b3", "digits-b0-w0.25-d0.25-silu-s0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the pages speak of; the home in it is empty, and so is the web browser's record."""
    place = tmp_path_factory.mktemp("pages")
    cut_photos(place / "photos", (24, 40), 80)
    with tarfile.open(place / "flower_photos.tgz", "w:gz") as tar:
        tar.add(place / "photos", "flower_photos")
    (place / "photos" / "flower" / "00.jpg").rename(place / "photo.jpg")
    (place / "browser").write_text(f'#!/bin/sh\necho "$1" >> {place}/opened\n')
    (place / "browser").chmod(0o755)
    yield place
    Cli(place / "home")("down", "--force", timeout=180, check=False)


@pytest.fixture(scope="module")
def shell(place: Path) -> list[str]:
    """Runs a line of a page as a user's shell would, with the command on its PATH."""
    home = {**Cli(place / "home").env, "BROWSER": str(place / "browser")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = [f"{name}={value}" for name, value in {**home, "PATH": path}.items() if os.environ.get(name) != value]
    return ["env", "-C", str(place), *words, "bash", "-euo", "pipefail", "-c"]


@pytest.fixture(scope="module")
def said(place: Path, shell: list[str]) -> dict[str, str]:
    """What each command printed.

    One that follows (`-f`) goes on beside those after it. `down` comes last, so that the engines start once.
    """
    (place / "home").mkdir()
    said, followed = {}, place / "followed"
    lines = [line for block in blocks("bash") if not block.mark for line in block.commands]
    for line in sorted(lines, key=lambda line: line.endswith(" down")):
        smaller = line
        for text, instead in SMALLER.items():
            smaller = smaller.replace(text, instead)
        if line.endswith(" -f"):
            follower = subprocess.Popen([*shell, f"exec {smaller} > {followed} 2>&1"])
            wait_for(lambda: followed.exists() and "] epoch 1/" in followed.read_text(), 300, line)
            continue
        done = subprocess.run([*shell, smaller], capture_output=True, text=True, timeout=900, check=False)
        said[line] = done.stdout + done.stderr
        assert done.returncode == 0, f"{smaller}\n{said[line]}"
    assert follower.wait(60) == 0
    return {**said, "followed": followed.read_text()}


def test_every_command_does_its_work(place: Path, said: dict[str, str]) -> None:
    def of(verb: str) -> str:
        (line,) = (line for line in said if line.startswith(f"effnet-cluster {verb} "))
        return said[line]

    assert all(any(text in line for line in said) for text in SMALLER)
    planned, detached, followed = (text for line, text in said.items() if " submit " in line)
    assert "worker-hours" in planned
    assert f"submitted {EXPERIMENT}" in detached
    assert "flower_photos-b0-w0.25-d0.25-silu-s0" in followed
    assert EXPERIMENT in said["effnet-cluster list"]
    assert "] epoch 1/2" in said["followed"]
    assert f"stopped {EXPERIMENT}" in of("stop")
    rows = list(csv.DictReader(io.StringIO(of("compare"))))
    assert [row["outcome"] for row in rows] == ["completed"] * 2
    assert (place / "opened").read_text().strip() == (place / f"{EXPERIMENT}.html").as_uri()
    assert "photo.jpg" in of("predict")
    (cam,) = place.glob("*cam*")
    with Image.open(cam) as picture:
        assert min(picture.size) >= 224
    assert "not running" not in said["effnet-cluster status"]


def test_a_trials_job_runs_under_torchrun(place: Path, shell: list[str], said: dict[str, str]) -> None:
    (command,) = {span for page in PAGES for span in spans(page) if span.startswith("torchrun ")}
    assert "FOLDER" in command
    job = place / "home" / "experiments" / EXPERIMENT / "trials" / TRIAL
    here = command.replace("job.json", str(job / "job.json")).replace("FOLDER", "torchrun")
    done = subprocess.run([*shell, here], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert list((place / "torchrun" / "checkpoints").glob("*.pt"))
