"""Random choices that must not know of each other: no number serves twice, and nothing follows the crop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effnet_cluster.datasets import Augmentation, EpochOrder, Mixing, TrainTransform
from effnet_cluster.datasets import philox as philox_module
from effnet_cluster.datasets.decoding import augmentation as augmentation_module
from effnet_cluster.datasets.decoding.augmentation import ERASED
from effnet_cluster.datasets.decoding.pictures import Box
from effnet_cluster.datasets.preparing.sources import Record, stratified_split

SAMPLES = 600
# Of 600 pairs of independent numbers, one correlation in 10,000 is larger.
LARGEST = 0.16
WIDTH, HEIGHT = 96, 72
# Red grows to the right, and tells whether the picture was flipped.
RAMP = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
RAMP[:, :, 0] = np.linspace(0, 90, WIDTH).astype(np.uint8)
RAMP[:, :, 1:] = 255


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every random word that is drawn from now on."""
    drawn: list[int] = []
    draw = philox_module.words

    def noting(*arguments: Any, **more: Any) -> Any:
        found = draw(*arguments, **more)
        drawn.extend(found.tolist())
        return found

    monkeypatch.setattr(philox_module, "words", noting)
    return drawn


def test_no_random_word_serves_twice(words: list[int]) -> None:
    """Whatever a run draws: order, crop and flip, policy, erasing, mixing; and the split of its data by class."""
    image = Image.fromarray(RAMP)
    records = [Record(f"{c}-{n}", f"class{c}", lambda: None) for c in range(5) for n in range(9)]  # type: ignore[arg-type, return-value]
    for seed in (0, 1):
        stratified_split(records, 0.5, seed)
        order = EpochOrder((5, 6, 7, 5), seed, 1)
        transforms = [
            TrainTransform(16, seed, augmentation=Augmentation("rand", erasing=1.0)),
            TrainTransform(16, 2 + seed, augmentation=Augmentation("auto", erasing=1.0)),
            TrainTransform(16, 4 + seed, augmentation=Augmentation("trivial", erasing=1.0)),
        ]
        mixing = Mixing(3, seed, mixup=0.5, cutmix=0.5)
        for epoch in (0, 1):
            order._sample_ids(epoch)
            for number in range(3):
                for transform in transforms:
                    transform(image, epoch, number)
                mixing(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([1, 0]), epoch, number)
    assert len(words) > 10_000
    assert len(set(words)) == len(words)


Seen = list[tuple[torch.Tensor, list[float]]]


def seen(monkeypatch: pytest.MonkeyPatch, augmentation: Augmentation, mirror: bool = True) -> tuple[np.ndarray, Seen]:
    """(crops, outputs): the area, shape, left and top of each sample's crop; what came out, with the policy's draws."""
    crops: list[Box] = []
    draws: list[list[float]] = [[]]
    box_of = TrainTransform._box

    def noting(transform: TrainTransform, *arguments: Any) -> Box:
        crops.append(box_of(transform, *arguments))
        return crops[-1]

    def policy(image: Image.Image, _: int, given: list[float]) -> Image.Image:
        draws[0] = given
        return image

    monkeypatch.setattr(TrainTransform, "_box", noting)
    monkeypatch.setattr(augmentation_module, "rand_augment", policy)
    transform = TrainTransform(24, seed=7, mirror=mirror, augmentation=augmentation)
    image = Image.fromarray(RAMP)
    outputs = [(transform(image, 3, sample), draws[0]) for sample in range(SAMPLES)]
    told = [
        (
            box.width * box.height,
            box.width / box.height,
            box.left / max(WIDTH - box.width, 1),
            box.top / max(HEIGHT - box.height, 1),
        )
        for box in crops
    ]
    return np.array(told), outputs


def is_flipped(output: torch.Tensor) -> bool:
    red = output[0].float().mean(0)
    return bool(red[0] > red[-1])


def is_erased(output: torch.Tensor) -> bool:
    return bool((output == torch.tensor(ERASED, dtype=torch.uint8)[:, None, None]).all(0).any())


CHOICES: dict[str, tuple[Augmentation, Callable[[torch.Tensor, list[float]], list[float]]]] = {
    "flip": (Augmentation(), lambda output, _: [is_flipped(output)]),
    "erasing": (Augmentation(erasing=0.5), lambda output, _: [is_erased(output)]),
    "policy": (Augmentation("rand"), lambda _, draws: draws),
    "flip and policy": (Augmentation("rand"), lambda output, draws: [is_flipped(output), *draws]),
    "flip and erasing": (Augmentation(erasing=0.5), lambda output, _: [is_flipped(output), is_erased(output)]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_no_choice_follows_the_crop_or_another_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    augmentation, choices = CHOICES[name]
    crops, outputs = seen(monkeypatch, augmentation, mirror="flip" in name)
    chosen = np.array([choices(*output) for output in outputs], dtype=np.float64)
    assert 0.4 < chosen[:, 0].mean() < 0.6
    together = np.corrcoef(np.hstack([crops, chosen]).T)
    assert np.abs(together[: crops.shape[1], crops.shape[1] :]).max() < LARGEST
    between = together[crops.shape[1] :, crops.shape[1] :]
    assert np.abs(between - np.eye(len(between))).max() < LARGEST


def test_the_crops_properties_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would compare with noise: the picture's left edge tells where the crop was."""
    crops, outputs = seen(monkeypatch, Augmentation(), mirror=False)
    left = np.array([float(output[0, :, 0].float().mean()) for output, _ in outputs])
    assert np.corrcoef(left, crops[:, 2])[0, 1] > 0.6
