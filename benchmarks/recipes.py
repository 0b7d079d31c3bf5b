"""The accuracy that training recipes reach: the trainer of a trial in one process, without Ray and MLflow.

The digits of scikit-learn, or crops of the photographs that scikit-image and scikit-learn ship.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..datasets import Manifest, open_dataset, prepare
from ..orchestration.plan import make_plan
from ..orchestration.spec import ExperimentSpec
from ..orchestration.training.execution import Execution
from ..orchestration.training.job import TrainingJob, TrialPlan
from ..orchestration.training.metrics import TOP1
from .alone import train_alone

PHOTOS = "photos"
# Colour photographs by what they show, within the packages: scikit-image's `data` and scikit-learn's `datasets/images`.
_SKIMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png")
_SKIMAGE_MORE = ("retina.jpg", "rocket.jpg")
# Each photograph becomes a chequerboard of cells: one colour is train, the other val.
_GRID = 6


@dataclass(frozen=True)
class Run:
    """One training: val top-1 after every epoch, and its seconds."""

    recipe: str
    variant: str
    seed: int
    top1: tuple[float, ...]
    seconds: float

    @property
    def last(self) -> float:
        """Top-1 after the last epoch: not the best, which would be chosen by the images that it is told of."""
        return self.top1[-1]


@dataclass(frozen=True)
class Summary:
    """The last top-1 of `runs` trainings that differ in their seed."""

    median: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def summary(runs: Iterable[Run]) -> Summary:
    """Median and extremes of the last top-1.

    Raises:
        ValueError: there are no runs.
    """
    values = [run.last for run in runs]
    if not values:
        raise ValueError("nothing was trained")
    return Summary(statistics.median(values), min(values), max(values), len(values))


def measure(data: str, variant: str, recipe: dict[str, Any], seeds: Sequence[int], **fields: Any) -> Iterator[Run]:
    """Train once per seed.

    Args:
        data: `digits` or `photos`.
        variant: a name in `VARIANTS`.
        recipe: as in a specification.
        seeds: one training each.
        fields: others of the specification, such as `image_size`.

    Raises:
        UserError: the specification is wrong.
    """
    spec = ExperimentSpec.parse(
        {"name": "bench", "variants": variant, "seeds": list(seeds), "recipe": recipe, **fields}
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifest = photo_crops(root) if data == PHOTOS else open_dataset(data, root, typed=False)
        for trial in make_plan(spec, manifest).trials:
            yield train(trial, manifest)


def train(trial: TrialPlan, manifest: Manifest) -> Run:
    """One training by the trainer on the CPU, in one process; without a checkpoint within epochs."""
    top1: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as storage:
        job = TrainingJob(
            trial=trial,
            execution=Execution(device="cpu", checkpoint_steps=2**31),
            data=manifest.location,
            data_digest=manifest.digest,
            storage=storage,
            cache_root=storage,
        )
        train_alone(job, report=lambda metrics: top1.append(metrics[TOP1]))
    return Run(trial.recipe.name, trial.variant, trial.seed, tuple(top1), time.perf_counter() - started)


def photo_crops(root: Path) -> Manifest:
    """Write ten photographs' cells, one class per photograph, and prepare them; no pixel is both in train and in val.

    Raises:
        ImportError: scikit-image is not installed.
    """
    for name, pixels in _photographs().items():
        height, width = (size // _GRID for size in pixels.shape[:2])
        for cell in range(_GRID * _GRID):
            row, column = divmod(cell, _GRID)
            folder = root / "cells" / ("val" if (row + column) % 2 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            image = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
            Image.fromarray(image).save(folder / f"{cell:02d}.jpg", quality=95)
    return prepare(root / "cells", root / "shards", name=PHOTOS)


def _photographs() -> dict[str, NDArray[np.uint8]]:
    import skimage
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.__file__).parent / "data"
    found = {
        name.split(".")[0]: np.asarray(Image.open(folder / name).convert("RGB")) for name in (*_SKIMAGE, *_SKIMAGE_MORE)
    }
    return found | dict(zip(("china", "flower"), load_sample_images().images, strict=True))
