"""Transforms of training and evaluation: from a picture to a uint8 tensor of a network's input size.

Normalisation happens later, on the device and in batches.

Random choices are keyed by (seed, epoch, sample id): who decodes a sample, and when, does not change what becomes of
it.
"""

import math
from dataclasses import dataclass

import torch
from PIL import Image

from ..errors import DataError
from ..philox import Domain, uniforms
from .augmentation import NO_AUGMENTATION, Augmentation
from .pictures import Box, JpegPicture, Picture
from .resizing import Interpolation, as_image, evaluation_crop, resize_as_pillow, resize_bilinear

Scale = tuple[float, float]
DEFAULT_CROP_SCALE: Scale = (0.35, 1.0)
DEFAULT_CROP_RATIO: Scale = (3 / 4, 4 / 3)
_ATTEMPTS = 10


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop (Szegedy et al. 2015, in torchvision's form) and, if `mirror`, a horizontal flip half of the
    time; then what `augmentation` adds.

    The crop is resized bilinearly with antialiasing, torchvision's default for training, whatever evaluation does.

    Attributes:
        image_size: side of the square output in pixels.
        scale: range of the crop's area relative to the image's.
        ratio: range of the crop's aspect ratio (width / height), drawn log-uniformly.
        mirror: whether to flip.
        augmentation: a policy and random erasing.
        seed: 0..2^64-1.
    """

    image_size: int
    seed: int
    scale: Scale = DEFAULT_CROP_SCALE
    ratio: Scale = DEFAULT_CROP_RATIO
    mirror: bool = True
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        _require_size("image_size", self.image_size)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise DataError(f"crop_scale must be two numbers 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise DataError(f"crop_ratio must be two numbers 0 < low <= high, got {self.ratio}")

    def __call__(self, image: Image.Image | Picture | JpegPicture, epoch: int, sample_id: int) -> torch.Tensor:
        """RGB image → uint8 (3, image_size, image_size).

        Raises:
            DataError: the picture is damaged.
        """
        picture = Picture.of(image) if isinstance(image, Image.Image) else image
        draws = uniforms(4 * _ATTEMPTS + 1, Domain.AUGMENTATION, self.seed, epoch, sample_id).tolist()
        box = self._box(picture.width, picture.height, draws)
        output = resize_bilinear(picture.crop(box, self.image_size, quick=True), self.image_size)
        if self.mirror and draws[-1] < 0.5:
            output = output.flip(2)
        return self.augmentation.apply(output, self.seed, epoch, sample_id)

    def _box(self, width: int, height: int, draws: list[float]) -> Box:
        """The first draw of ten that fits, else the largest central crop."""
        low, high = (math.log(bound) for bound in self.ratio)
        for attempt in range(_ATTEMPTS):
            area_draw, ratio_draw, x_draw, y_draw = draws[4 * attempt : 4 * attempt + 4]
            area = width * height * (self.scale[0] + area_draw * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + ratio_draw * (high - low))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(x_draw * (width - crop_width + 1))
                return Box(left, int(y_draw * (height - crop_height + 1)), crop_width, crop_height)
        crop_width = min(width, max(round(height * self.ratio[1]), 1))
        crop_height = min(height, max(round(width / self.ratio[0]), 1))
        return Box((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height)


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side to `resize` with `interpolation`, then crop the central `image_size` square.

    This is torchvision's `ImageClassification` preset before its normalisation. Its pixels are within one level of
    that preset's on PIL images, but for rare values (see `resize_as_pillow`). One exception: an image whose shorter
    side is at most `image_size` has no border to spare. Its shorter side becomes `image_size`, and keeps all pixels.
    """

    image_size: int
    resize: int
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        _require_size("image_size", self.image_size)
        if self.resize < self.image_size:
            raise DataError(f"resize ({self.resize}) must be at least image_size ({self.image_size})")

    def __call__(self, image: Image.Image | Picture | JpegPicture) -> torch.Tensor:
        """RGB image → uint8 (3, image_size, image_size).

        Raises:
            DataError: the picture is damaged.
        """
        picture = Picture.of(image) if isinstance(image, Image.Image) else image
        side = self.image_size
        height, width, top, left = evaluation_crop(picture.height, picture.width, side, self.resize)
        resized = resize_as_pillow(as_image(picture.pixels()), height, width, self.interpolation)
        return resized[0, :, top : top + side, left : left + side]


def _require_size(what: str, pixels: int) -> None:
    if pixels < 1:
        raise DataError(f"{what} must be at least 1 pixel, got {pixels}")
