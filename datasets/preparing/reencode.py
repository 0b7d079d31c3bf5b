"""Making stored images smaller, for datasets whose photographs are far larger than a network's input."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from ..decoding.images import EncodedImage, decode_rgb
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
        longest = max(image.width, image.height)
        if longest <= self.max_side:
            return image
        rgb = decode_rgb(image.data)  # turned upright, hence its own size
        width, height = (max(1, round(side * self.max_side / longest)) for side in rgb.size)
        buffer = BytesIO()
        rgb.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=self.quality)
        return EncodedImage(buffer.getvalue(), "jpg", width, height)
