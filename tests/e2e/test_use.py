"""A scaled network, trained with torch.compile and activation checkpointing, then used: predict, CAM, export."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from effnet_cluster.effnet import EfficientNet, variant

from .conftest import Cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
NAME, VARIANT = "scaled", "b0-w0.25-d0.3"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("digits")
    paths = [folder / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, load_digits().images, strict=False):
        Image.fromarray((pixels * 15.9).astype("uint8")).resize((40, 48)).convert("RGB").save(path)
    return paths


def test_a_compiled_and_checkpointed_scaled_model_is_trained_and_used(
    cli: Cli, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ("--compile", "--checkpoint-activations", "--epochs", "1", "--workers", "2")
    cli("submit", "--variants", VARIANT, *how, "--name", NAME)
    (run,) = cli.trial_runs(NAME).values()
    assert (run.info.status, run.data.tags["variant"]) == ("FINISHED", VARIANT)
    assert run.data.metrics["check/ranks_equal"] == 2.0

    (file,) = (cli.home / "experiments" / NAME / "trials").rglob("state.pt")
    with torch.device("meta"):
        expected_keys = list(EfficientNet(variant(VARIANT)).state_dict())
    assert list(torch.load(file, weights_only=True)["model"]) == expected_keys  # no `_orig_mod.`, no `module.`

    found = json.loads(
        cli("predict", *map(str, images), "--model", NAME, "--cam", "--out", str(tmp_path), "--json").stdout
    )
    pixels = np.stack([np.asarray(Image.open(path)) for path in images])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cli.services()["mlflow"]["url"])
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(pixels)
    assert [int(entry["predictions"][0]["class"]) for entry in found] == served.argmax(1).tolist()
    for entry in found:
        with Image.open(entry["cam"]) as picture:
            assert min(picture.size) >= 224  # small images are enlarged, or the map would be a few pixels

    out = tmp_path / "model.onnx"
    cli("export", "--model", NAME, "--format", "onnx", "--out", str(out))
    session = pytest.importorskip("onnxruntime").InferenceSession(out, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"images": pixels})
    np.testing.assert_allclose(probabilities, served, atol=5e-3)
