"""Fast JPEG decoding by libjpeg-turbo: only the rows that are needed, and at a reduced scale on request.

It decodes plain JPEGs: 8 bits, grayscale or three components, Huffman-coded, baseline or progressive. Other or damaged
files are left to Pillow, whose word is final: every function here returns None instead of raising. Pillow uses the same
library, so the pixels are equal to the bit either way, unless the quick way is asked for.
"""

import math
import re
import struct
import threading
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

ORIENTATION_TAG = 0x0112
"""The EXIF tag whose value 1 to 8 says how the stored picture is turned (EXIF 2.3, section 4.6.4)."""

_SOF, _SOS, _DRI, _APP1 = (0xC0, 0xC1, 0xC2), 0xDA, 0xDD, 0xE1
# DHT lies among the frame types, but is none.
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MAX_SCRATCH = 16 * 2**20
_scratch = threading.local()
# How libjpeg-turbo says that bytes were left between the last row and the end of the file.
_ROWS_WERE_LEFT = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")


@dataclass(frozen=True)
class JpegHeader:
    """What the markers before the pixels say.

    Attributes:
        width, height: as stored, in pixels.
        orientation: 1 to 8, see `ORIENTATION_TAG`.
        height_at: offset of the two bytes that hold the height.
        row_step: rows decoded together (the height of an MCU), in pixels; 0 where decoding cannot stop early.
    """

    width: int
    height: int
    orientation: int
    height_at: int
    row_step: int


def read_header(data: bytes) -> JpegHeader | None:
    """The header of a plain JPEG, or None where Pillow has to decide what this is."""
    try:
        return _read_header(data)
    except (struct.error, IndexError):
        return None


def _read_header(data: bytes) -> JpegHeader | None:
    if data[:2] != b"\xff\xd8":
        return None
    at, exif, restarts = 2, b"", False
    frame = components = progressive = step = 0
    while True:
        start, marker, length = struct.unpack_from(">BBH", data, at)
        body = at + 4
        if start != 0xFF or not 0xC0 <= marker <= 0xFE or length < 2 or marker in _OTHER_FRAMES:
            return None
        if marker in _SOF:
            components = data[body + 5]
            if frame or data[body] != 8 or components not in (1, 3):
                return None
            frame, progressive = body + 1, int(marker == 0xC2)
            step = 8 * max(data[body + 7 + 3 * component] & 15 for component in range(components))
        elif marker == _APP1:
            segment = data[body : at + 2 + length]
            if segment.startswith(_XMP) and b"tiff:Orientation" in segment:
                return None
            if segment.startswith(_EXIF):
                exif += segment[len(_EXIF) if exif else 0 :]
        elif marker == _DRI:
            restarts = True
        elif marker == _SOS:
            break
        at += 2 + length
    height, width = struct.unpack_from(">HH", data, frame)
    if not frame or not height or not width or not step:
        return None
    # One pass over the picture, or stopping early would not save anything. With restart markers a damaged file could
    # pass for one that was merely left early.
    one_pass = data[body] == components and not progressive and not restarts
    return JpegHeader(width, height, _orientation(exif) if exif else 1, frame, step if one_pass else 0)


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    try:
        tags.load(exif)
        found = tags.get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is common in real data sets and no reason to lose the picture
        return 1
    return found if found in range(2, 9) else 1


def decode_plain(
    data: bytes, header: JpegHeader, rows: int, reduction: int = 1, *, quick: bool = False
) -> NDArray[np.uint8] | None:
    """At least the first `rows` stored rows of a plain JPEG, or None if it is not flawless.

    Args:
        rows: in pixels of the full size; those below may be missing from the result.
        quick: by libjpeg-turbo's faster DCT and nearest chroma: a tenth less time, a level or so from Pillow's pixels.
        reduction: 1, 2, 4 or 8; a scaled inverse DCT yields ceil(width / reduction) columns, rows alike.

    Returns:
        uint8 (height, width, 3), not turned upright; its memory is used again by the next call in the same thread.
    """
    # Chroma is interpolated with the sample below it: a few rows more than asked for keep the new edge out of sight.
    needed = rows + reduction * (header.row_step // 4)
    early = header.row_step and _steps(needed, header) < _steps(header.height, header) and can_stop_early()
    stop = needed if early else header.height
    width, height = (-(-side // reduction) for side in (header.width, stop))
    shape = (height, width, 3)
    buffer = _scratch_array(math.prod(shape)).reshape(shape)
    try:
        # Sides of no less than these and a factor of no less than this leave one scale to choose.
        image = simplejpeg.decode_jpeg(
            _ending_at(data, header, stop),
            colorspace="RGB",
            min_width=width,
            min_height=height,
            min_factor=reduction,
            fastdct=quick,
            fastupsample=quick,
            buffer=buffer,
        )
    except ValueError as error:
        return buffer if stop < header.height and _says_rows_were_left(error) else None
    return buffer if image.shape == shape else None


def _says_rows_were_left(error: ValueError) -> bool:
    """Whether nothing is wrong but that we stopped early: libjpeg reports the first irregularity alone."""
    return _ROWS_WERE_LEFT.fullmatch(str(error)) is not None


@cache
def can_stop_early() -> bool:
    """Whether this libjpeg reports rows that were left in the words that we know; otherwise all rows are decoded.

    Tried once per process, on a picture of noise made for it.
    """
    file = BytesIO()
    rows = np.random.Generator(np.random.Philox(0)).integers(0, 256, (32, 8), dtype=np.uint8)
    Image.fromarray(rows).save(file, "JPEG")
    data = file.getvalue()
    if (header := read_header(data)) is None:
        return False
    try:
        simplejpeg.decode_jpeg(_ending_at(data, header, 8), colorspace="RGB")
    except ValueError as error:
        return _says_rows_were_left(error)
    return False


def _scratch_array(size: int) -> NDArray[np.uint8]:
    """`size` bytes. Fresh pages from the system for every picture would cost up to half as much as decoding it."""
    if size > _MAX_SCRATCH:
        return np.empty(size, dtype=np.uint8)
    if not hasattr(_scratch, "bytes"):
        # libjpeg-turbo writes aligned rows past the cache (movntdq), where they are wanted next: an odd address keeps
        # most of them unaligned. Without, a picture took 1.4% to 3.8% longer (best of 25 rounds in turns).
        memory = np.empty(_MAX_SCRATCH + 2, dtype=np.uint8)
        _scratch.bytes = memory[1 - memory.ctypes.data % 2 :]
    scratch: NDArray[np.uint8] = _scratch.bytes
    return scratch[:size]


def _steps(rows: int, header: JpegHeader) -> int:
    return -(-rows // header.row_step)


def _ending_at(data: bytes, header: JpegHeader, height: int) -> bytes | bytearray:
    """The same file, said to be `height` pixels high: the decoder stops there."""
    if height == header.height:
        return data
    shortened = bytearray(data)
    struct.pack_into(">H", shortened, header.height_at, height)
    return shortened


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels (height, width, channels) turned as `orientation` says, contiguous (EXIF 2.3, tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)  # rows were columns
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
