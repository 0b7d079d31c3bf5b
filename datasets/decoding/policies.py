"""RandAugment, AutoAugment and TrivialAugment on Pillow images, as functions of given random numbers.

Operations, ranges and signs are those of torchvision, which follow the authors' code. Where an operation moves the
picture, the free area becomes gray (128, 128, 128) and pixels come from their nearest neighbour. This is as in the code
that AutoAugment and RandAugment were published with (tensorflow/tpu, efficientnet/autoaugment.py, `replace`);
torchvision's default, black, is much darker than photographs are on average.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageEnhance, ImageOps

FILL = (128, 128, 128)
"""Colour of what lies outside of a moved picture."""

_T = TypeVar("_T")
_MAX_MAGNITUDE = 30
_AUTO_MAX_MAGNITUDE = 9


def _affine(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=FILL)


OPERATIONS: Mapping[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, slope: _affine(image, (1, slope, 0, 0, 1, 0)),
    "ShearY": lambda image, slope: _affine(image, (1, 0, 0, slope, 1, 0)),
    "TranslateX": lambda image, pixels: _affine(image, (1, 0, -int(pixels), 0, 1, 0)),
    "TranslateY": lambda image, pixels: _affine(image, (1, 0, 0, 0, 1, -int(pixels))),
    "Rotate": lambda image, degrees: image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=FILL),
    "Brightness": lambda image, more: ImageEnhance.Brightness(image).enhance(1 + more),
    "Color": lambda image, more: ImageEnhance.Color(image).enhance(1 + more),
    "Contrast": lambda image, more: ImageEnhance.Contrast(image).enhance(1 + more),
    "Sharpness": lambda image, more: ImageEnhance.Sharpness(image).enhance(1 + more),
    "Posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, threshold),  # type: ignore[arg-type]
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
}
"""Every operation by name: (RGB image, magnitude in the operation's own unit) → RGB image of the same size."""

_SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)
_DRAWABLE = tuple(name for name in OPERATIONS if name != "Invert")


@dataclass(frozen=True)
class Space:
    """How strong each operation is at its strongest.

    Attributes:
        shear: slope. rotate: degrees. enhance: added to or taken from a factor of 1. posterize: bits taken of 8.
        translate: pixels, or, if `relative`, a share of the picture's side.
    """

    shear: float
    translate: float
    relative: bool
    rotate: float
    enhance: float
    posterize: int

    def magnitude(self, operation: str, level: float, size: tuple[int, int]) -> float:
        """Of `operation` at `level`, 0 weakest to 1 strongest, for a picture of `size` (width, height)."""
        match operation:
            case "ShearX" | "ShearY":
                return level * self.shear
            case "TranslateX" | "TranslateY":
                side = size[0] if operation == "TranslateX" else size[1]
                return level * self.translate * (side if self.relative else 1)
            case "Rotate":
                return level * self.rotate
            case "Brightness" | "Color" | "Contrast" | "Sharpness":
                return level * self.enhance
            case "Posterize":
                return 8 - round(level * self.posterize)
            case "Solarize":
                return 255 * (1 - level)
            case _:
                return 0.0


NARROW = Space(shear=0.3, translate=150 / 331, relative=True, rotate=30, enhance=0.9, posterize=4)
"""Of AutoAugment (Cubuk et al. 2019) and RandAugment (Cubuk et al. 2020)."""

WIDE = Space(shear=0.99, translate=32, relative=False, rotate=135, enhance=0.99, posterize=6)
"""Of TrivialAugment (Müller and Hutter 2021)."""

Step = tuple[str, float, int]

IMAGENET_POLICY: tuple[tuple[Step, Step], ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)
"""Sub-policies of two steps (operation, probability, magnitude 0 to 9): AutoAugment, appendix A, table 9."""


def rand_augment(image: Image.Image, magnitude: int, draws: Sequence[float]) -> Image.Image:
    """RandAugment (Cubuk et al. 2020): one operation of 14 after the other, all with `magnitude` 0 to 30.

    Args:
        draws: uniform in [0, 1), two for each operation.
    """
    for pick, sign in zip(draws[::2], draws[1::2], strict=True):
        image = _apply(image, NARROW, _picked(pick, _DRAWABLE), magnitude / _MAX_MAGNITUDE, sign)
    return image


def trivial_augment(image: Image.Image, draws: Sequence[float]) -> Image.Image:
    """TrivialAugment (Müller and Hutter 2021), wide: one operation of 14 with one of 31 magnitudes.

    Args:
        draws: three, uniform in [0, 1).
    """
    pick, strength, sign = draws
    level = _picked(strength, range(_MAX_MAGNITUDE + 1)) / _MAX_MAGNITUDE
    return _apply(image, WIDE, _picked(pick, _DRAWABLE), level, sign)


def auto_augment(image: Image.Image, draws: Sequence[float]) -> Image.Image:
    """AutoAugment (Cubuk et al. 2019) with the policy found for ImageNet: one of 25 pairs of steps.

    Args:
        draws: five, uniform in [0, 1).
    """
    pick, *rest = draws
    for (operation, probability, magnitude), chance, sign in zip(
        _picked(pick, IMAGENET_POLICY), rest[::2], rest[1::2], strict=True
    ):
        if chance < probability:
            image = _apply(image, NARROW, operation, magnitude / _AUTO_MAX_MAGNITUDE, sign)
    return image


def _apply(image: Image.Image, space: Space, operation: str, level: float, sign: float) -> Image.Image:
    magnitude = space.magnitude(operation, level, image.size)
    return OPERATIONS[operation](image, -magnitude if operation in _SIGNED and sign < 0.5 else magnitude)


def _picked(draw: float, choices: Sequence[_T]) -> _T:
    return choices[int(draw * len(choices))]
