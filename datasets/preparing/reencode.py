"""Making stored images smaller, for datasets whose photographs are far larger than a network's input."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from ..decoding.images import EncodedImage, decode_large, decode_rgb
from ..errors import DataError


@dataclass(frozen=True)
class Reencoding:
    """Images with a longer side than `max_side` pixels become JPEGs of that size, of Pillow's `quality` (1–95).

    Raises:
        DataError: a value is out of range.
    """

    max_side: int
    quality: int = 90

    def __post_init__(self) -> None:
        if self.max_side < 1:
            raise DataError(f"the longest side must be at least 1 pixel, got {self.max_side}")
        if not 1 <= self.quality <= 95:  # above 95 Pillow's JPEGs grow without looking better
            raise DataError(f"the JPEG quality must be between 1 and 95, got {self.quality}")

    def apply(self, image: EncodedImage) -> EncodedImage:
        """The image itself, byte for byte, where it is small enough, otherwise a smaller, upright RGB one.

        Which bytes come out of a JPEG encoder depends on the release of Pillow and of its libjpeg.

        Raises:
            DataError: it cannot be decoded.
        """
        if max(image.width, image.height) <= self.max_side:
            return image
        return self._smaller(decode_rgb(image.data))  # turned upright, hence its own size

    def apply_large(self, path: Path) -> EncodedImage:
        """The smaller form of an image file that is above the caps for what is stored.

        Raises:
            DataError: it cannot be decoded, or is above the caps of `decode_large` too.
        """
        return self._smaller(decode_large(path, self.max_side))

    def _smaller(self, rgb: Image.Image) -> EncodedImage:
        scale = min(1.0, self.max_side / max(rgb.size))
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        buffer = BytesIO()
        rgb.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=self.quality)
        return EncodedImage(buffer.getvalue(), "jpg", width, height)
