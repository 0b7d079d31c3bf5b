"""Two ways of resizing: a fast one for training; for evaluation Pillow's to the bit, without what is cropped away."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from .bicubic import Taps, filter_columns, filter_rows, taps


def fast_resize(pixels: NDArray[np.uint8], side: int) -> torch.Tensor:
    """Pixels (height, width, 3) resized to uint8 (3, side, side), channels last in memory: bilinear, antialiased.

    This is torchvision's filter for tensors, rows first where they shrink, in torch's integer arithmetic: the same on
    every processor, five times as fast as Pillow, and at most a level or two away from its pixels.
    """
    image = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)  # rows of a larger picture: torch copies faster
    if len(pixels) > side:  # torch would begin with the columns, the slower half of the work, and that in all rows
        image = _resized(image, side, pixels.shape[1])
    return _resized(image, side, side)[0]


def _resized(image: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return F.interpolate(image, (rows, columns), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class ResizedCut:
    """The square of `side` pixels at (left, top) of a picture resized to width x height by Pillow's bicubic filter.

    Equal to the bit to resizing all of it and cropping then, for a seventh of the work: each axis is filtered for the
    crop alone, and many sums at a time.

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
        return self._rows_in.needed if self._columns_come_first else range(self.rows)

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square of a picture, uint8 (side, side, 3).

        Args:
            pixels: the picture's first rows at least, up to the last that is needed, uint8 (rows, columns, 3).
        """
        left, top, side, needed = self.left, self.top, self.side, self.needed
        if not self._columns_come_first:
            whole = Image.fromarray(pixels).resize((self.width, self.height), Image.Resampling.BICUBIC)
            return np.array(whole.crop((left, top, left + side, top + side)))
        narrow = filter_columns(pixels[needed.start : needed.stop], taps(self.columns, self.width, left, side))
        return filter_rows(narrow, self._rows_in.after(needed.start))

    @property
    def _rows_in(self) -> Taps:
        return taps(self.rows, self.height, self.top, self.side)

    @property
    def _columns_come_first(self) -> bool:
        """Whether Pillow reduces the number of columns before the number of rows; each step ends in whole levels.

        Releases before 13 always do. Pillow 13 (its pull request 9549) does not where far more rows than columns go.
        """
        return self.height >= self.rows or self.rows - self.height <= 2 * (self.columns - self.width)
