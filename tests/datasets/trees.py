"""Trees of small images for tests, written as what each folder holds."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, extension: str = "png") -> bytes:
    """The bytes of a small picture, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension))
    return buffer.getvalue()


def make_tree(root: Path, tree: Mapping[str, int | str | bytes]) -> Path:
    """Make folders of so many different pictures, and files of the given content."""
    numbers = iter(range(10**6))
    for name, content in tree.items():
        path = root / name
        if isinstance(content, int):
            path.mkdir(parents=True, exist_ok=True)
            for number in range(content):
                (path / f"{number}.png").write_bytes(picture(next(numbers)))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root
