"""Re-encoding: only what is too large changes, the longest side is the limit, and it still looks the same."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from effnet_cluster.datasets import DataError, Manifest, Reencoding, prepare
from effnet_cluster.datasets.decoding.images import encode_file


def stored(manifest: Manifest) -> dict[str, bytes]:
    """Image bytes by the stem of their file."""
    found = {}
    for split in manifest.splits.values():
        for n in range(len(split)):
            shard = (manifest.root / split.shards[split.shard[n]].name).read_bytes()
            found[split.key(n).split("-", 1)[1]] = shard[split.offset[n] :][: split.size[n]]
    return found


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two images' levels."""
    return float(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).mean())


def test_small_images_stay_byte_for_byte_and_large_ones_fit(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "raw" / "china"
    root.mkdir(parents=True)
    for number, path in enumerate(sorted(photos.glob("*/*.jpg"))):
        (root / f"{number:02d}.jpg").write_bytes(path.read_bytes())
    images = stored(prepare(root.parent, tmp_path / "out", reencoding=Reencoding(100, 85), one_class=True))
    changed = 0
    for path in root.iterdir():
        with Image.open(path) as before, Image.open(io.BytesIO(images[path.stem])) as after:
            if max(before.size) <= 100:
                assert images[path.stem] == path.read_bytes()
                continue
            changed += 1
            assert after.format == "JPEG"
            assert max(after.size) == 100
            assert abs(after.width / after.height - before.width / before.height) < 0.02
            # At a factor of 0.9 a box filter is almost no filter; a bicubic one is another smooth one.
            resized = before.resize(after.size, Image.Resampling.BICUBIC)
            assert distance(resized, after) < 0.4 * distance(ImageOps.mirror(resized), after)
            assert distance(resized, after) < 8
    assert 0 < changed < 20


def test_the_orientation_is_baked_in(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (80, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.jpg", exif=exif, quality=95)
    small = Reencoding(50).apply(encode_file(tmp_path / "a.jpg"))
    with Image.open(io.BytesIO(small.data)) as image, Image.open(tmp_path / "a.jpg") as original:
        assert image.size == (small.width, small.height) == (20, 50)
        assert image.getexif().get(0x0112, 1) == 1
        upright = ImageOps.exif_transpose(original).resize((20, 50), Image.Resampling.BOX)
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(upright, dtype=int)).mean() < 4


def test_what_cannot_be_stored_as_it_is_and_transparency_become_jpeg_when_large(tmp_path: Path) -> None:
    Image.new("RGB", (300, 3), (255, 0, 0)).save(tmp_path / "a.bmp")
    Image.new("RGBA", (3, 300), (0, 0, 0, 0)).save(tmp_path / "b.png")
    Image.new("RGB", (30, 3), (0, 255, 0)).save(tmp_path / "c.bmp")
    first, second, third = (Reencoding(30).apply(encode_file(tmp_path / n)) for n in ("a.bmp", "b.png", "c.bmp"))
    assert (first.extension, first.width, first.height) == ("jpg", 30, 1)
    assert (second.extension, second.width, second.height) == ("jpg", 1, 30)
    assert (third.extension, third.width, third.height) == ("png", 30, 3)
    assert Image.open(io.BytesIO(second.data)).getpixel((0, 10)) == (255, 255, 255)


@pytest.mark.parametrize("arguments", [(0,), (10, 0), (10, 96)])
def test_values_out_of_range_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="must be"):
        Reencoding(*arguments)
