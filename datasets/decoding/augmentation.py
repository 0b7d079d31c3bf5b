"""Augmentation beyond crop and flip: a policy (RandAugment and others) and random erasing."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from ..errors import DataError
from ..philox import Domain, uniforms
from .policies import auto_augment, rand_augment, trivial_augment

Policy = Literal["none", "rand", "auto", "trivial"]

ERASED = (124, 116, 104)
"""Colour of an erased box: the mean of ImageNet, which normalisation turns into zeros (to half a level of 255)."""

_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)
_ATTEMPTS = 10
_MAX_MAGNITUDE = 30


@dataclass(frozen=True)
class Augmentation:
    """A policy and random erasing (Zhong et al. 2020, with torchvision's ranges).

    Attributes:
        policy: "rand" (RandAugment), "auto" (AutoAugment's ImageNet policy), "trivial" (TrivialAugment, wide), "none".
        operations, magnitude: of RandAugment; how many one after the other, and how strong, 0 to 30.
        erasing: probability that a box of an image is erased.
    """

    policy: Policy = "none"
    operations: int = 2
    magnitude: int = 9
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise DataError(f"policy must be one of {', '.join(get_args(Policy))}, got {self.policy!r}")
        if self.operations < 1:
            raise DataError(f"RandAugment's operations must be at least 1, got {self.operations}")
        if not 0 <= self.magnitude <= _MAX_MAGNITUDE:
            raise DataError(f"RandAugment's magnitude must be between 0 and {_MAX_MAGNITUDE}, got {self.magnitude}")
        if not 0 <= self.erasing <= 1:
            raise DataError(f"erasing is a probability between 0 and 1, got {self.erasing}")

    def apply(self, image: torch.Tensor, seed: int, epoch: int, sample_id: int) -> torch.Tensor:
        """Augment a uint8 image (3, height, width), as a pure function of the image and the key."""
        if self.policy != "none":
            pillow = self._by_policy(Image.fromarray(image.permute(1, 2, 0).numpy()), (seed, epoch, sample_id))
            image = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)
        return self._erased(image, (seed, epoch, sample_id)) if self.erasing else image

    def _by_policy(self, image: Image.Image, key: tuple[int, int, int]) -> Image.Image:
        if self.policy == "rand":
            draws = uniforms(2 * self.operations, Domain.POLICY, *key).tolist()
            return rand_augment(image, self.magnitude, draws)
        if self.policy == "auto":
            return auto_augment(image, uniforms(5, Domain.POLICY, *key).tolist())
        return trivial_augment(image, uniforms(3, Domain.POLICY, *key).tolist())

    def _erased(self, image: torch.Tensor, key: tuple[int, int, int]) -> torch.Tensor:
        chance, *draws = uniforms(1 + 4 * _ATTEMPTS, Domain.ERASING, *key).tolist()
        if chance >= self.erasing:
            return image
        height, width = image.shape[1:]
        low, high = (math.log(bound) for bound in _ERASED_RATIO)
        for attempt in range(_ATTEMPTS):
            area_draw, ratio_draw, x_draw, y_draw = draws[4 * attempt : 4 * attempt + 4]
            area = height * width * (_ERASED_AREA[0] + area_draw * (_ERASED_AREA[1] - _ERASED_AREA[0]))
            ratio = math.exp(low + ratio_draw * (high - low))
            rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if rows < height and columns < width:
                top, left = int(y_draw * (height - rows + 1)), int(x_draw * (width - columns + 1))
                erased = image.clone()
                erased[:, top : top + rows, left : left + columns] = torch.tensor(ERASED, dtype=torch.uint8)[
                    :, None, None
                ]
                return erased
        return image


NO_AUGMENTATION = Augmentation()
"""Nothing beyond crop and flip."""
