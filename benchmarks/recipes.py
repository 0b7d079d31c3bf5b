"""What recipes reach: trainings in one process, made of the parts that a trial is made of, without its engines.

The digits of scikit-learn, or crops of the photographs that scikit-image and scikit-learn ship.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ..datasets import Manifest, Mixing, open_dataset, prepare
from ..orchestration.plan import TrialPlan, make_plan
from ..orchestration.spec import ExperimentSpec
from ..orchestration.training.classifier import NormalizedModel
from ..orchestration.training.collectives import evaluate
from ..orchestration.training.ema import Ema
from ..orchestration.training.loaders import make_loaders
from ..orchestration.training.networks import build_network, normalization_of, set_training_mode
from ..orchestration.training.optimizers import make_optimizer
from ..orchestration.training.precision import autocast, gradient_scaler
from ..orchestration.training.randomness import seed_step_randomness
from ..orchestration.training.schedules import learning_rate, set_learning_rate
from ..orchestration.training.train_step import TrainStep

PHOTOS = "photos"
CPU = torch.device("cpu")
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
    """Train once a seed.

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
        manifest = photo_crops(root) if data == PHOTOS else open_dataset(data, root)
        with _one_rank():
            for trial in make_plan(spec, manifest).trials:
                yield train(trial, manifest)


def train(trial: TrialPlan, manifest: Manifest) -> Run:
    """One training on the CPU in float32; needs a process group of one rank."""
    recipe = trial.recipe
    torch.manual_seed(trial.seed)
    network = build_network(trial).to(memory_format=torch.channels_last)
    normalization = normalization_of(trial)
    model = NormalizedModel(network, normalization)
    ema = Ema(network, recipe.ema) if recipe.ema else None
    evaluated = NormalizedModel(ema.network, normalization) if ema else model
    optimizer = make_optimizer(network, recipe, CPU)
    precision = autocast("float32", CPU)
    step = TrainStep(
        model,
        optimizer,
        nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        precision,
        gradient_scaler("float32", CPU),
        recipe.micro_batch or recipe.global_batch,
        recipe.clip_grad,
        ema,
    )
    mixing = Mixing(len(manifest.classes), trial.seed, recipe.mixup, recipe.cutmix)
    loader, val = make_loaders(trial, manifest, recipe.global_batch)
    sequence = loader.sequence
    accuracies = []
    started = time.perf_counter()
    for epoch in range(recipe.epochs):
        set_training_mode(model)
        for number, batch in enumerate(loader.epoch(epoch)):
            done = sequence.first_batch(epoch) + number
            seed_step_randomness(trial.seed, done, 0)
            set_learning_rate(optimizer, learning_rate(recipe, done, sequence.batches_per_epoch))
            images, labels = batch.images, batch.labels
            if mixing.mixup or mixing.cutmix:
                images, labels = mixing(images, labels, epoch, number)
            step(images, labels)
        accuracies.append(float(evaluate(evaluated, val, CPU, precision)["top1"]))
    return Run(recipe.name, trial.variant, trial.seed, tuple(accuracies), time.perf_counter() - started)


def photo_crops(root: Path) -> Manifest:
    """Write ten photographs' cells, a class a photograph, and prepare them; no pixel is both in train and in val.

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


@contextmanager
def _one_rank() -> Iterator[None]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
