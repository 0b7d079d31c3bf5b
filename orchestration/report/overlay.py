"""Pictures of activation maps over photographs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# The ramp in OKLCh, a space whose steps look alike to the eye (Ottosson 2020, "A perceptual color space for image
# processing"): lightness rises evenly, so that the ramp also reads in grey and for the colour-blind, while the hue goes
# from violet over red to yellow. Chroma is what the sRGB gamut has room for along this way.
_LIGHTNESS = (0.20, 0.95)
_HUE_DEGREES = (290.0, 470.0)
_CHROMA = 0.13
_MIN_SIDE = 224


def heat_colors(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Colours for values in [0, 1] of any shape (…): sRGB (…, 3), from dark violet to light yellow."""
    colors: npt.NDArray[np.uint8] = _ramp()[(np.clip(values, 0, 1) * 255).round().astype(np.uint8)]
    return colors


def overlay(image: Image.Image, values: npt.NDArray[np.floating[Any]], strength: float = 0.55) -> Image.Image:
    """Lay a map over a picture, at least 224 pixels wide and high.

    Args:
        image: RGB. It is shown in grey, so that every colour is the map's.
        values: (h, w) in [0, 1], the map of the whole picture at any resolution.
        strength: in [0, 1], the share of the map's colours.
    """
    enlarged = max(1.0, _MIN_SIDE / min(image.size))
    size = (round(image.width * enlarged), round(image.height * enlarged))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    resized = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    mixed = (1 - strength) * grey[..., None] + strength * heat_colors(np.asarray(resized, dtype=np.float32))
    return Image.fromarray(mixed.round().astype(np.uint8))


def seen_square(image: Image.Image, image_size: int, eval_resize: int) -> Image.Image:
    """The part of a picture, in its own pixels, that the evaluation transform of these sizes shows to a network."""
    short = min(image.size)
    side = round(short * image_size / eval_resize) if short > image_size else short
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@cache
def _ramp() -> npt.NDArray[np.uint8]:
    """(256, 3) sRGB."""
    steps = np.linspace(0, 1, 256)
    hue = np.radians(_HUE_DEGREES[0] + steps * (_HUE_DEGREES[1] - _HUE_DEGREES[0]))
    lightness = _LIGHTNESS[0] + steps * (_LIGHTNESS[1] - _LIGHTNESS[0])
    # Near black and near white the gamut is narrow; half a sine narrows with it.
    chroma = _CHROMA * np.sqrt(np.sin(np.pi * (0.15 + 0.75 * steps)))
    return _oklab_to_srgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))


def _oklab_to_srgb(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """OKLab (…, 3) → 8-bit sRGB, clipped to the gamut; Ottosson's matrices and the sRGB transfer curve (IEC 61966)."""
    to_cone_roots = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_cone_roots.T) ** 3 @ to_linear.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    srgb: npt.NDArray[np.uint8] = (encoded * 255).round().astype(np.uint8)
    return srgb
