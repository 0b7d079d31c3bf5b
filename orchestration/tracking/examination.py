"""What a trained model says of the validation images: its predictions, its errors, and where it looks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ...datasets import Batch, Manifest, OnCorrupt
    from .trained import TrainedModel

_BATCH, _MAP_BATCH = 16, 4


@dataclass(frozen=True)
class Seen:
    """One image as a model sees it.

    Attributes:
        image: uint8 (H, W, 3).
        target, predicted: numbers of classes.
        probability: of the predicted class.
        map: float32 (H, W) in [0, 1], where the evidence for that class lies; None where it points nowhere, or there
            was no time for it.
    """

    image: npt.NDArray[np.uint8]
    target: int
    predicted: int
    probability: float
    map: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Examination:
    """What a model says of N images.

    Attributes:
        classes: their names.
        targets: (N,) int64, the class of each image.
        predicted: (N,) int64, the most probable class.
        confidence: (N,) float64, the probability of that.
        images: how many validation images there are. N is smaller where not all were asked for, or there was no time.
        mistakes: the most confident ones first.
        examples: the first image of each class.
    """

    classes: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    images: int
    mistakes: Sequence[Seen] = field(default_factory=tuple)
    examples: Sequence[Seen] = field(default_factory=tuple)


def examine(
    trained: TrainedModel,
    manifest: Manifest,
    seconds: float,
    mistakes: int,
    examples: int = 0,
    most: int | None = None,
    on_corrupt: OnCorrupt = "stop",
) -> Examination:
    """Show a model the validation images.

    Args:
        trained: the model.
        manifest: whose validation images.
        seconds: for which images are looked at, and again for the maps of some of them. One batch may take longer.
        mistakes, examples: how many are kept as pictures, with their maps.
        most: about how many images are looked at, from all parts of the split; None: all.
        on_corrupt: whether an image that cannot be decoded ends this or is left out.

    Raises:
        DataError: the images cannot be read.
    """
    import torch

    from ...datasets import EvalLoader
    from ..training.classifier import NormalizedModel

    facts, images = trained.facts, len(manifest.split("val"))
    loader = EvalLoader(
        manifest,
        image_size=facts.image_size,
        resize=facts.eval_resize,
        interpolation=facts.interpolation,
        batch_size=_BATCH,
        world_size=max(1, -(-images // most)) if most else 1,  # one of many ranks reads a batch of every stretch
        on_corrupt=on_corrupt,
    )
    model = NormalizedModel(trained.network, facts.normalization).eval()
    found: list[npt.NDArray[np.float64]] = []
    wrong: list[Seen] = []
    first: dict[int, Seen] = {}
    deadline = time.monotonic() + seconds
    for batch in loader:
        with torch.inference_mode():
            confidence, predicted = model(batch.images).softmax(1).max(1)
        said = np.stack([batch.labels.numpy(), predicted.numpy(), confidence.double().numpy()], axis=1)
        found.append(said[batch.mask.numpy()])
        for number in batch.mask.nonzero()[:, 0].tolist():
            target, seen = int(said[number, 0]), int(said[number, 1])
            if target != seen:
                wrong.append(_seen(batch, number, said[number]))
            if len(first) < examples and target not in first:
                first[target] = _seen(batch, number, said[number])
        wrong = sorted(wrong, key=lambda one: -one.probability)[:mistakes]
        if time.monotonic() > deadline:
            break
    rows = np.concatenate(found)
    shown = _mapped(trained, [*wrong, *(first[target] for target in sorted(first))], time.monotonic() + seconds)
    pictured = list(shown)
    return Examination(
        classes=facts.classes,
        targets=rows[:, 0].astype(np.int64),
        predicted=rows[:, 1].astype(np.int64),
        confidence=rows[:, 2],
        images=images,
        mistakes=pictured[: len(wrong)],
        examples=pictured[len(wrong) :],
    )


def _seen(batch: Batch, number: int, said: npt.NDArray[np.float64]) -> Seen:
    image = batch.images[number].permute(1, 2, 0).contiguous().numpy().copy()
    return Seen(image, int(said[0]), int(said[1]), float(said[2]))


def _mapped(trained: TrainedModel, shown: Sequence[Seen], deadline: float) -> Iterator[Seen]:
    """The images with the maps of what the model takes them for, as long as there is time."""
    if not shown:
        return
    import torch

    from ...effnet.cam import deepest_layer, grad_cam
    from ..training.classifier import NormalizedModel

    facts = trained.facts
    normalise = NormalizedModel(torch.nn.Identity(), facts.normalization)
    layer = deepest_layer(trained.network, facts.image_size)
    for start in range(0, len(shown), _MAP_BATCH):
        part = shown[start : start + _MAP_BATCH]
        if time.monotonic() > deadline:
            yield from part
            continue
        inputs = normalise(torch.from_numpy(np.stack([one.image for one in part])).permute(0, 3, 1, 2))
        maps = grad_cam(trained.network, inputs, [one.predicted for one in part], layer)
        for one, image_map, points in zip(part, maps.image_maps.numpy(), maps.has_contrast.tolist(), strict=True):
            yield replace(one, map=image_map) if points else one
