"""From a decoded image to a uint8 tensor; normalisation happens later, on the device and in batches.

Random choices are keyed by (seed, epoch, sample id): who decodes a sample, and when, does not change what becomes of
it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .errors import DataError
from .philox import Domain, uniforms

Scale = tuple[float, float]
DEFAULT_CROP_SCALE: Scale = (0.35, 1.0)
DEFAULT_CROP_RATIO: Scale = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_BICUBIC = Image.Resampling.BICUBIC


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as a uint8 tensor, shape (3, height, width)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop (Szegedy et al. 2015, in torchvision's form) and, if `mirror`, a horizontal flip half of the
    time.

    Attributes:
        image_size: side of the square output in pixels.
        scale: range of the crop's area relative to the image's.
        ratio: range of the crop's aspect ratio (width / height), drawn log-uniformly.
        mirror: whether to flip.
        seed: 0..2^64-1.
    """

    image_size: int
    seed: int
    scale: Scale = DEFAULT_CROP_SCALE
    ratio: Scale = DEFAULT_CROP_RATIO
    mirror: bool = True

    def __post_init__(self) -> None:
        _require_size("image_size", self.image_size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise DataError(f"crop_scale must be two numbers 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise DataError(f"crop_ratio must be two numbers 0 < low <= high, got {self.ratio}")

    def __call__(self, image: Image.Image, epoch: int, sample_id: int) -> torch.Tensor:
        """RGB image → uint8 (3, image_size, image_size)."""
        draws = uniforms(4 * _ATTEMPTS + 1, Domain.AUGMENTATION, self.seed, epoch, sample_id).tolist()
        left, top, width, height = self._crop(image.width, image.height, draws)
        side = self.image_size
        output = image.resize((side, side), _BICUBIC, box=(left, top, left + width, top + height))
        if self.mirror and draws[-1] < 0.5:
            output = output.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(output)

    def _crop(self, width: int, height: int, draws: list[float]) -> tuple[int, int, int, int]:
        """(left, top, width, height) in pixels: the first draw of ten that fits, else the largest central crop."""
        low, high = (math.log(bound) for bound in self.ratio)
        for attempt in range(_ATTEMPTS):
            area_draw, ratio_draw, x_draw, y_draw = draws[4 * attempt : 4 * attempt + 4]
            area = width * height * (self.scale[0] + area_draw * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + ratio_draw * (high - low))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(x_draw * (width - crop_width + 1))
                return left, int(y_draw * (height - crop_height + 1)), crop_width, crop_height
        crop_width = min(width, max(round(height * self.ratio[1]), 1))
        crop_height = min(height, max(round(width / self.ratio[0]), 1))
        return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side to `resize` (bicubic), then crop the central `image_size` square.

    On PIL images this equals, to the bit, torchvision's `ImageClassification` preset before its normalisation. One
    exception: an image whose shorter side is at most `image_size` has no border to spare, so its shorter side becomes
    `image_size` and nothing is cropped from it.
    """

    image_size: int
    resize: int

    def __post_init__(self) -> None:
        _require_size("image_size", self.image_size)
        if self.resize < self.image_size:
            raise DataError(f"resize ({self.resize}) must be at least image_size ({self.image_size})")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """RGB image → uint8 (3, image_size, image_size)."""
        side, short = self.image_size, min(image.size)
        resize = self.resize if short > side else side
        # torchvision rounds the longer side down and the crop's corner half to even; both are kept to the letter.
        long = int(resize * max(image.size) / short)
        width, height = (resize, long) if image.width <= image.height else (long, resize)
        resized = image.resize((width, height), _BICUBIC)
        left, top = round((width - side) / 2.0), round((height - side) / 2.0)
        return to_tensor(resized.crop((left, top, left + side, top + side)))


def _require_size(what: str, pixels: int) -> None:
    if pixels < 1:
        raise DataError(f"{what} must be at least 1 pixel, got {pixels}")
