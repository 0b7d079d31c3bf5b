"""torch.compile under DDP, with activation checkpointing, computes what eager mode does; the keys do not show it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet_cluster.effnet import EfficientNet

from . import compiled

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("compiled")
    run = subprocess.run([sys.executable, compiled.__file__, str(out)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = torch.load(Path(out, "rank0.pt"), weights_only=True)
    assert found["graphs"] >= 1, "nothing was compiled"
    return found["results"] | {"graphs": found["graphs"]}


def test_the_averaged_gradients_are_eager_modes(found: dict[str, Any]) -> None:
    expected, actual = found["eager"]["gradients"], found["compiled"]["gradients"]
    assert actual.keys() == expected.keys()
    assert len(expected) > 20
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-6, atol=1e-9)


def test_running_statistics_count_the_batch_once(found: dict[str, Any]) -> None:
    expected, actual = found["eager"]["state"], found["compiled"]["state"]
    statistics = [key for key in expected if "running" in key or "num_batches" in key]
    assert statistics
    for key in statistics:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-6, atol=1e-9)


def test_saved_keys_are_the_bare_networks(found: dict[str, Any]) -> None:
    assert list(found["compiled"]["state"]) == list(EfficientNet(compiled.CONFIG).state_dict())
