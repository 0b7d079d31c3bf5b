"""Small tars for tests, written by plain tarfile."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image


def png(value: int) -> bytes:
    """A picture of 5x7 pixels; equal for equal values alone."""
    buffer = io.BytesIO()
    Image.new("RGB", (5, 7), (value % 256, value // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
