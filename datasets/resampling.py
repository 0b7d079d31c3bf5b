"""Two ways of resizing: a fast one for training; for evaluation Pillow's to the bit, without what is cropped away."""

import math
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

_BICUBIC = Image.Resampling.BICUBIC
_BICUBIC_RADIUS = 2
_FLOAT_BITS = 24


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels (height, width, 3) as a tensor (3, height, width) that keeps them together in memory (channels last)."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def fast_resize(pixels: NDArray[np.uint8], side: int) -> torch.Tensor:
    """Pixels (height, width, 3) resized to uint8 (3, side, side), channels last in memory: bilinear, antialiased.

    This is torchvision's filter for tensors, in torch's integer arithmetic: the same on every processor, five times as
    fast as Pillow, and at most a level or two away from its pixels.
    """
    image = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)  # rows of a larger picture: torch copies faster
    return F.interpolate(image, (side, side), mode="bilinear", antialias=True)[0]


def cut_resized(
    pixels: NDArray[np.uint8], width: int, height: int, left: int, top: int, side: int
) -> NDArray[np.uint8]:
    """The square of `side` pixels at (left, top) of the pixels resized to width x height by Pillow's bicubic filter.

    Equal to the bit to resizing all of it and cropping then, for two thirds of the work: Pillow filters along one axis
    after the other, and each is done for the crop alone.

    Args:
        pixels: uint8 (rows, columns, 3).

    Returns:
        uint8 (side, side, 3).
    """
    rows, columns = pixels.shape[:2]
    if not _columns_come_first(columns, rows, width, height):
        whole = Image.fromarray(pixels).resize((width, height), _BICUBIC)
        return np.asarray(whole.crop((left, top, left + side, top + side)))
    across, down = _exact_scale(columns, width), _exact_scale(rows, height)
    first, last = 0, rows
    if down is not None:
        # Rows beyond the reach of the filter need not be filtered along the other axis either.
        reach = _BICUBIC_RADIUS * max(down, 1.0) + 1
        first, last = max(math.floor(top * down - reach), 0), min(math.ceil((top + side) * down + reach), rows)
    image = Image.fromarray(pixels[first:last])
    if across is None:
        image = image.resize((width, image.height), _BICUBIC).crop((left, 0, left + side, image.height))
    else:
        box = (left * across, 0, (left + side) * across, image.height)
        image = image.resize((side, image.height), _BICUBIC, box)
    if down is None:
        return np.asarray(image.resize((side, height), _BICUBIC).crop((0, top, side, top + side)))
    return np.asarray(image.resize((side, side), _BICUBIC, (0, top * down - first, side, (top + side) * down - first)))


def _columns_come_first(columns: int, rows: int, width: int, height: int) -> bool:
    """Whether Pillow reduces the number of columns before the number of rows; each step ends in whole levels.

    Releases before 13 always do. Pillow 13 (its pull request 9549) does not where far more rows than columns go.
    """
    return height >= rows or rows - height <= 2 * (columns - width)


def _exact_scale(length: int, resized: int) -> float | None:
    """length / resized, if all its multiples up to `length` are 32-bit floats, which is what Pillow's boxes consist of.

    Then all that Pillow computes for a box that starts at such a multiple is what it computes for the whole image.
    """
    step = Fraction(length, resized).denominator
    return length / resized if step & (step - 1) == 0 and length * step < 2**_FLOAT_BITS else None
