"""Two ways of resizing: a fast one for training; for evaluation Pillow's to the bit, without what is cropped away."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

_BICUBIC = Image.Resampling.BICUBIC
_BICUBIC_RADIUS = 2
_FLOAT_BITS = 24


def fast_resize(pixels: NDArray[np.uint8], side: int) -> torch.Tensor:
    """Pixels (height, width, 3) resized to uint8 (3, side, side), channels last in memory: bilinear, antialiased.

    This is torchvision's filter for tensors, in torch's integer arithmetic: the same on every processor, five times as
    fast as Pillow, and at most a level or two away from its pixels.
    """
    image = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)  # rows of a larger picture: torch copies faster
    return F.interpolate(image, (side, side), mode="bilinear", antialias=True)[0]


@dataclass(frozen=True)
class ResizedCut:
    """The square of `side` pixels at (left, top) of a picture resized to width x height by Pillow's bicubic filter.

    Equal to the bit to resizing all of it and cropping then, for two thirds of the work: Pillow filters along one axis
    after the other, and each is done for the crop alone.

    Attributes:
        columns, rows: of the picture; all attributes are in pixels.
    """

    columns: int
    rows: int
    width: int
    height: int
    left: int
    top: int
    side: int

    @cached_property
    def needed(self) -> range:
        """The rows of the picture that the square is made of."""
        scale = self._down
        if scale is None or not self._columns_come_first:
            return range(self.rows)
        # Pillow's own bounds of the first and the last row's filter.
        reach = _BICUBIC_RADIUS * max(scale, 1.0) - 0.5
        first, last = (self.top + 0.5) * scale - reach, (self.top + self.side - 0.5) * scale + reach + 1
        return range(max(math.floor(first), 0), min(math.floor(last), self.rows))

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square of a picture, uint8 (side, side, 3).

        Args:
            pixels: the picture's first rows at least, up to the last that is needed, uint8 (rows, columns, 3 or 4).
        """
        left, top, side, needed = self.left, self.top, self.side, self.needed
        image = _image(pixels[needed.start : needed.stop])
        if not self._columns_come_first:
            whole = image.resize((self.width, self.height), _BICUBIC)
            return np.array(whole.crop((left, top, left + side, top + side)))
        across, down = _exact_scale(self.columns, self.width), self._down
        if across is None:
            image = image.resize((self.width, image.height), _BICUBIC).crop((left, 0, left + side, image.height))
        else:
            columns = (left * across, 0, (left + side) * across, image.height)
            image = image.resize((side, image.height), _BICUBIC, columns)
        if down is None:
            return np.array(image.resize((side, self.height), _BICUBIC).crop((0, top, side, top + side)))
        rows = (0, top * down - needed.start, side, (top + side) * down - needed.start)
        return np.array(image.resize((side, side), _BICUBIC, rows))

    @cached_property
    def _down(self) -> float | None:
        return _exact_scale(self.rows, self.height)

    @property
    def _columns_come_first(self) -> bool:
        """Whether Pillow reduces the number of columns before the number of rows; each step ends in whole levels.

        Releases before 13 always do. Pillow 13 (its pull request 9549) does not where far more rows than columns go.
        """
        return self.height >= self.rows or self.rows - self.height <= 2 * (self.columns - self.width)


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (rows, columns, 3) as an image; or (rows, columns, 4), which are taken as they are, without a copy."""
    if pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    flat = pyarrow.Array.from_buffers(pyarrow.uint8(), pixels.size, [None, pyarrow.py_buffer(pixels)])
    return Image.fromarrow(flat, "RGB", (pixels.shape[1], pixels.shape[0]))


def _exact_scale(length: int, resized: int) -> float | None:
    """length / resized, if all its multiples up to `length` are 32-bit floats, which is what Pillow's boxes consist of.

    Then all that Pillow computes for a box that starts at such a multiple is what it computes for the whole image.
    """
    step = Fraction(length, resized).denominator
    return length / resized if step & (step - 1) == 0 and length * step < 2**_FLOAT_BITS else None
