"""A model that a sweep has trained is used: predict, class activation maps, export."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from .conftest import DEMO, Cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("digits")
    paths = [folder / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, load_digits().images, strict=False):
        Image.fromarray((pixels * 15.9).astype("uint8")).resize((40, 48)).convert("RGB").save(path)
    return paths


def test_the_champion_is_used(
    cli: Cli,
    demo: subprocess.CompletedProcess[str],
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert demo.returncode == 0
    options = ("--model", DEMO, "--cam", "--out", str(tmp_path), "--json")
    found = json.loads(cli("predict", *map(str, images), *options).stdout)
    pixels = np.stack([np.asarray(Image.open(path)) for path in images])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", cli.services()["mlflow"]["url"])
    served = mlflow.pyfunc.load_model(f"models:/{DEMO}@champion").predict(pixels)
    assert [int(entry["predictions"][0]["class"]) for entry in found] == served.argmax(1).tolist()
    for entry in found:
        with Image.open(entry["cam"]) as picture:
            assert min(picture.size) >= 224  # small images are enlarged, or the map would be a few pixels

    out = tmp_path / "model.onnx"
    cli("export", "--model", DEMO, "--format", "onnx", "--out", str(out))
    session = pytest.importorskip("onnxruntime").InferenceSession(out, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"images": pixels})
    np.testing.assert_allclose(probabilities, served, atol=5e-3)
