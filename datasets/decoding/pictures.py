"""Pictures whose size is known at once and whose pixels are decoded when a transform asks for them.

A training crop needs a part of a picture, often at less than its full size; a JPEG need not be decoded beyond that.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import MAX_IMAGE_PIXELS, decode_rgb, require_bytes
from .jpeg import JpegHeader, decode_plain, read_header, upright


class Box(NamedTuple):
    """A part of an upright picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright RGB picture whose pixels are known: uint8 (height, width, 3)."""

    rgb: NDArray[np.uint8]

    @classmethod
    def of(cls, image: Image.Image) -> "Picture":
        """The picture of an image in mode RGB."""
        return cls(np.array(image, dtype=np.uint8))

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.rgb.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.rgb.shape[0])

    def pixels(self) -> NDArray[np.uint8]:
        """All of it, uint8 (height, width, 3); the memory may be used again by the next picture."""
        return self.rgb

    def crop(self, box: Box, side: int, *, quick: bool = False) -> NDArray[np.uint8]:
        """The part in `box`, uint8 (rows, columns, 3), to be resized to `side` x `side` pixels at once: the memory may
        be used again by the next picture.

        What does not matter at that size may be missing: where either side of the box is at least twice, four or eight
        times `side`, the result can have a half, a quarter or an eighth of its rows and columns. `quick` allows pixels
        a level or so off, for less time.
        """
        return self.rgb[box.top : box.top + box.height, box.left : box.left + box.width]


@dataclass(frozen=True, eq=False)
class JpegPicture:
    """A plain JPEG, decoded on demand; see `Picture` for the methods.

    Raises:
        DataError: from `pixels` and `crop`, the file is damaged.
    """

    data: bytes
    header: JpegHeader

    @property
    def width(self) -> int:
        """In pixels, turned upright."""
        return self.header.width if self.header.orientation < 5 else self.header.height

    @property
    def height(self) -> int:
        """In pixels, turned upright."""
        return self.header.height if self.header.orientation < 5 else self.header.width

    def pixels(self) -> NDArray[np.uint8]:
        """See `Picture.pixels`; equal to the bit to what Pillow decodes."""
        stored = decode_plain(self.data, self.header, self.header.height)
        return self._by_pillow().rgb if stored is None else self._upright(stored)

    def crop(self, box: Box, side: int, *, quick: bool = False) -> NDArray[np.uint8]:
        """See `Picture.crop`. At a reduced scale the box is widened to whole pixels of that scale."""
        reduction = 1
        while reduction < 8 and min(box.width, box.height) >= 2 * reduction * side:
            reduction *= 2
        rows = self._stored_rows(box.top + box.height)
        stored = decode_plain(self.data, self.header, rows, reduction, quick=quick)
        if stored is None:
            return self._by_pillow().crop(box, side)
        right, bottom = -(-(box.left + box.width) // reduction), -(-(box.top + box.height) // reduction)
        return self._upright(stored)[box.top // reduction : bottom, box.left // reduction : right]

    def _stored_rows(self, rows: int) -> int:
        """How many stored rows the first `rows` upright ones take."""
        return rows if self.header.orientation == 1 else self.header.height

    def _upright(self, stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return stored if self.header.orientation == 1 else upright(stored, self.header.orientation)

    def _by_pillow(self) -> Picture:
        return Picture.of(decode_rgb(self.data))


def open_picture(data: bytes) -> Picture | JpegPicture:
    """The picture in an encoded JPEG, PNG or WebP, as `decode_rgb` sees it; plain JPEGs are not decoded yet.

    Raises:
        DataError: not such an image, damaged as far as that was looked at, or larger than the caps. The caller adds
            which sample it was.
    """
    require_bytes(data)
    header = read_header(data)
    if header is None or header.width * header.height > MAX_IMAGE_PIXELS:
        return Picture.of(decode_rgb(data))
    return JpegPicture(data, header)
