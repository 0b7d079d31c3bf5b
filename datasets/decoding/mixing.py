"""Mixup and CutMix: mixing the images and labels of a batch, on whatever device it is.

λ, the box and the pairs belong to the global batch. λ and the box are drawn from (seed, epoch, number of the batch);
who is mixed with whom follows from the places in it. So every sample is mixed alike, however many ranks there are.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import DataError
from ..philox import Domain, uniforms

_MAX_ALPHA = 2.0
_PAIRS = 1024


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), or either of them, half of the batches each.

    Attributes:
        num_classes: of the labels.
        seed: 0..2^64-1.
        mixup, cutmix: λ ~ Beta(α, α) with this α, 0 < α <= 2; 0 turns the method off.
    """

    num_classes: int
    seed: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise DataError(f"num_classes must be at least 1, got {self.num_classes}")
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= alpha <= _MAX_ALPHA:
                raise DataError(f"{name} must be between 0 (off) and {_MAX_ALPHA:g}, got {alpha}")

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, partners: torch.Tensor, epoch: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix one rank's slice of a global batch.

        Args:
            images: (M, 3, H, W), uint8 or floating point; mixing and normalisation may come in either order. The first
                N are the slice, the others partners from outside of it.
            labels: int64 (M,).
            partners: int64 (N,), the row in `images` and `labels` that each of the first N is mixed with.
            batch: number of the global batch in the epoch.

        Returns:
            Images (N, 3, H, W), floating point after mixup (on the scale of the input), else of the input's type; and
            float32 labels (N, num_classes) that add up to 1.
        """
        choice, x_draw, y_draw, *draws = uniforms(3 + 2 * _PAIRS, Domain.MIXING, self.seed, epoch, batch).tolist()
        targets = F.one_hot(labels, self.num_classes).float()
        if not self.mixup and not self.cutmix:
            return images[: len(partners)], targets[: len(partners)]
        if self.mixup and (not self.cutmix or choice < 0.5):
            share = symmetric_beta(self.mixup, draws)
            pixels = images if images.is_floating_point() else images.float()
            return _blend(pixels, partners, share), _blend(targets, partners, share)
        share = symmetric_beta(self.cutmix, draws)
        left, top, right, bottom = cut_box(images.shape[3], images.shape[2], share, x_draw, y_draw)
        mixed = images[: len(partners)].clone()
        mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right][partners]
        # The box was cut off at the border: λ is what is really left of the image.
        kept = 1 - (right - left) * (bottom - top) / (images.shape[2] * images.shape[3])
        return mixed, _blend(targets, partners, kept)


def cut_box(width: int, height: int, share: float, x_draw: float, y_draw: float) -> tuple[int, int, int, int]:
    """CutMix's (left, top, right, bottom) in pixels: 1 - share of the area around a uniform centre, cut at the border.

    Args:
        x_draw, y_draw: uniform in [0, 1).
    """
    cut = math.sqrt(1 - share)
    cut_width, cut_height = int(width * cut), int(height * cut)
    x, y = int(x_draw * width), int(y_draw * height)
    left, top = max(x - cut_width // 2, 0), max(y - cut_height // 2, 0)
    return left, top, min(x - cut_width // 2 + cut_width, width), min(y - cut_height // 2 + cut_height, height)


def symmetric_beta(alpha: float, draws: list[float]) -> float:
    """A number from Beta(α, α), 0 < α <= 2, by Jöhnk's method (1964): the first pair that is accepted.

    Args:
        draws: uniform in [0, 1), by pairs; with 1024 of them, none is accepted with a probability below 1e-80.
    """
    # In logarithms, as u^(1/α) underflows for a small α.
    logs = np.log1p(-np.array(draws, dtype=np.float64)) / alpha
    first, second = logs[::2], logs[1::2]
    accepted = int(np.argmax(np.logaddexp(first, second) <= 0))
    difference = float(second[accepted] - first[accepted])
    return 1 / (1 + math.exp(difference)) if difference < 700 else 0.0


def _blend(values: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    return values[: len(partners)] * share + values[partners] * (1 - share)
