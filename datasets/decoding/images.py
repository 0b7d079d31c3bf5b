"""Image files that are not trusted: which are accepted, how they are stored, and how they become RGB.

Only the formats named here are ever opened; Pillow's EPS plug-in, for one, would start Ghostscript. Byte and pixel
counts are capped before anything is decoded. Every failure of a decoder comes out as one `DataError`.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError, one_line
from .jpeg import ORIENTATION_TAG

MAX_IMAGE_BYTES = 64 * 2**20
"""Largest encoded image, in bytes, that is stored or read."""

MAX_IMAGE_PIXELS = 89_478_485
"""Largest image in pixels: Pillow's own bound, where it only warns; here it is an error."""

SHARD_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
"""Extensions of the image members of a shard."""

_OTHER_EXTENSIONS = "jpe jfif mpo bmp dib gif tif tiff ppm pgm pbm pnm avif avifs heic heif hif jp2 j2k"
SOURCE_EXTENSIONS = SHARD_EXTENSIONS | frozenset(_OTHER_EXTENSIONS.split())
"""Extensions of the files of a source that are taken for images; with any other name the content decides."""

_SHARD_FORMATS = ("JPEG", "PNG", "WEBP")
_SOURCE_FORMATS = (*_SHARD_FORMATS, "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
_HEIC = re.compile(rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)
_HEAD_BYTES = 64
# What may be decoded to be made smaller: a scan of 23,000 x 23,000 pixels, 1.6 GB as RGB.
_MAX_LARGE_BYTES = 2**30
_MAX_LARGE_PIXELS = 2**29
# A JPEG with several pictures (cameras write them) is opened by Pillow as MPO; its bytes are a JPEG file all the same.
_STORED_AS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


class TooLargeError(DataError):
    """An image that is in order, but larger than the caps."""


@dataclass(frozen=True)
class EncodedImage:
    """An image as it is stored: encoded bytes, extension (jpg, png or webp), width and height in pixels."""

    data: bytes
    extension: str
    width: int
    height: int


def encode_file(path: Path) -> EncodedImage:
    """The stored form of an image file: JPEG, PNG and WebP byte for byte, other formats losslessly as PNG (first
    frame).

    The image is decoded once to find a damaged file now rather than in the middle of a training run.

    Raises:
        TooLargeError: it exceeds a cap; `decode_large` reads it all the same.
        DataError: the file cannot be read or decoded. All messages name the file.
    """
    data = _file_bytes(path, MAX_IMAGE_BYTES)
    try:
        with _opened(data, _source_formats(data)) as image:
            width, height = image.size
            if extension := _STORED_AS.get(image.format or ""):
                image.draft("L", (1, 1))  # a JPEG is then checked at an eighth of its size: several times faster
                image.load()
                return EncodedImage(data, extension, width, height)
            return _as_png(image)
    except TooLargeError as error:
        raise TooLargeError(f"{path}: {error}; make it smaller or remove the file") from error
    except DataError as error:
        raise DataError(f"{path}: {error}; repair or remove the file") from error


def decode_large(path: Path, side: int) -> Image.Image:
    """Decode an image file above the caps that is to be made smaller, to mode RGB and upright.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its scale, as long as its longer side keeps `side` pixels.

    Raises:
        DataError: the file cannot be read or decoded, or is larger than 1 GiB or 2^29 pixels; the message names it.
    """
    data = _file_bytes(path, _MAX_LARGE_BYTES)
    try:
        with _opened(data, _source_formats(data), math.inf) as image:
            scale = max(image.size) / side
            image.draft(None, (int(image.width / scale), int(image.height / scale)))
            _require_pixels(image, _MAX_LARGE_PIXELS)
            image.load()
            return _to_rgb(_upright(image))
    except DataError as error:
        raise DataError(f"{path}: {error}; repair or remove the file") from error


def is_image(path: Path) -> bool:
    """Whether the content of a file is an image of a known format, whatever its name; only its header is read.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if _HEIC.match(file.read(_HEAD_BYTES)):
            return True
        try:
            with _pillows_cap_off(), Image.open(file, formats=_source_formats()):
                return True
        except Exception:  # Pillow's plug-ins raise OSError, SyntaxError, struct.error, ... on other files
            return False


def decode_rgb(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG or WebP to mode RGB, turned upright as its EXIF orientation says.

    Grayscale, palette and CMYK are converted, 16-bit samples keep their high byte, transparency is composited over
    white.

    Raises:
        DataError: not such an image, damaged, or larger than the caps. The caller adds which sample it was.
    """
    require_bytes(data)
    with _opened(data, _SHARD_FORMATS) as image:
        image.load()
        return _to_rgb(_upright(image))


def read_rgb(path: Path) -> Image.Image:
    """An image file of any format that `encode_file` takes, in mode RGB, exactly as it is decoded from a shard.

    Raises:
        DataError: as `encode_file`; the message names the file.
    """
    return decode_rgb(encode_file(path).data)


def require_bytes(data: bytes) -> None:
    """Raise DataError if an encoded image is larger than the cap."""
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"{len(data):,} bytes, more than the {MAX_IMAGE_BYTES:,} allowed for one image")


def short_side(data: bytes) -> int:
    """The shorter side of an encoded image in pixels; see `dimensions`."""
    return min(dimensions(data))


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded image in pixels, as stored (not yet turned upright), from its header alone.

    Raises:
        DataError: not an image of a stored format, or larger than the caps.
    """
    with _opened(data, _SHARD_FORMATS) as image:
        return image.size


def _file_bytes(path: Path, limit: int) -> bytes:
    try:
        if (size := path.stat().st_size) > limit:
            raise TooLargeError(f"{path}: {size:,} bytes, more than the {limit:,} allowed for one image")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(data: bytes, formats: tuple[str, ...], max_pixels: float | None = None) -> Iterator[Image.Image]:
    """Open with every check that the header allows; whatever Pillow raises inside the block becomes a DataError."""
    try:
        with _pillows_cap_off(), Image.open(BytesIO(data), formats=formats) as image:
            _require_pixels(image, MAX_IMAGE_PIXELS if max_pixels is None else max_pixels)
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not an image that can be read ({'/'.join(formats)})") from error
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, struct.error, ... on damaged input
        raise DataError(f"damaged image: {one_line(error)}") from error


def _require_pixels(image: Image.Image, limit: float) -> None:
    pixels = image.width * image.height
    if pixels > limit:
        raise TooLargeError(f"{image.width}x{image.height} pixels, more than the {limit:,} allowed")
    if pixels == 0:
        raise DataError("an image without pixels")


@contextmanager
def _pillows_cap_off() -> Iterator[None]:
    """Pillow's own cap would end the opening of a large image with an error that looks like damage."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _source_formats(data: bytes = b"") -> tuple[str, ...]:
    """Those of a source that the installed Pillow opens: AVIF since 11.3, HEIF with a plugin, taken in if `data` is it.

    Decoding a shard asks for none of this: `Image.init` imports every plugin that Pillow has.
    """
    if _HEIC.match(data):
        _use_heif()
    Image.init()
    return tuple(name for name in _SOURCE_FORMATS if name in Image.OPEN)


def _use_heif() -> None:
    try:
        import pillow_heif  # optional
    except ImportError as error:
        raise DataError("HEIC needs a plugin: pip install 'effnet-cluster[prepare]'") from error
    pillow_heif.register_heif_opener()


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is common in real data sets and no reason to lose the picture
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _high_byte(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    # Pillow's convert("RGB") clips 16-bit values at 255, which turns nearly every pixel white.
    wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray((wide >> 8).astype(np.uint8))


def _as_png(image: Image.Image) -> EncodedImage:
    image.load()
    if image.mode == "F":
        raise DataError("floating-point pixels have no defined brightness; convert the file to 8 or 16 bits")
    upright = _upright(image)
    if upright.mode.startswith("I"):
        values = np.asarray(upright).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("32-bit pixels do not fit 16 bits; convert the file to 8 or 16 bits")
        upright = Image.fromarray(values.astype(np.uint16))
    elif upright.mode not in _PNG_MODES:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    buffer = BytesIO()
    upright.save(buffer, "PNG")
    if buffer.tell() > MAX_IMAGE_BYTES:
        raise DataError(f"{buffer.tell():,} bytes as PNG, more than the {MAX_IMAGE_BYTES:,} allowed for one image")
    return EncodedImage(buffer.getvalue(), "png", *upright.size)
