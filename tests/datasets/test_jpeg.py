"""Plain JPEGs: the fast path against Pillow, whole, in part, at reduced scales, turned, and damaged."""

import io
import re
import struct
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from effnet_cluster.datasets import DataError
from effnet_cluster.datasets.decoding.jpeg import can_stop_early, decode_plain, read_header, upright
from effnet_cluster.datasets.decoding.pictures import Box, JpegPicture, Picture, open_picture

CHINA = load_sample_image("china.jpg")
HUGE = 10**6  # no crop is so large that it would be decoded at a reduced scale


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(CHINA[:height, :width]).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def pixels(picture: Picture | JpegPicture) -> NDArray[np.uint8]:
    return picture.pixels()


def fast(data: bytes) -> JpegPicture:
    picture = open_picture(data)
    assert isinstance(picture, JpegPicture)
    return picture


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    mode=st.sampled_from(["RGB", "RGB", "L"]),
    options=st.sampled_from(
        [{}, {}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}]
    ),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_any_part_of_any_plain_jpeg_is_what_pillow_decodes(
    size: tuple[int, int], subsampling: str, mode: str, options: dict[str, Any], corners: list[float]
) -> None:
    width, height = size
    subsampling = "4:4:4" if "keep_rgb" in options else subsampling
    data = jpeg(width, height, mode, quality=80, subsampling=subsampling, **options)
    (left, right), (top, bottom) = (
        sorted(int(c * (width - 1)) for c in corners[:2]),
        sorted(int(c * (height - 1)) for c in corners[2:]),
    )
    box = Box(left, top, right + 1 - left, bottom + 1 - top)
    picture, expected = fast(data), by_pillow(data)
    assert (picture.width, picture.height) == size
    header = read_header(data)
    assert header is not None
    assert decode_plain(data, header, bottom + 1) is not None  # not by way of Pillow
    np.testing.assert_array_equal(picture.crop(box, HUGE), expected[top : bottom + 1, left : right + 1])
    np.testing.assert_array_equal(pixels(picture), expected)


@pytest.mark.parametrize(
    ("options", "rows"), [({}, 36), ({"progressive": True}, 400), ({"restart_marker_rows": 1}, 400)]
)
def test_rows_below_the_crop_are_not_decoded_where_that_can_be_told_from_damage(
    options: dict[str, Any], rows: int
) -> None:
    data = jpeg(300, 400, subsampling="4:2:0", **options)
    header = read_header(data)
    assert header is not None
    decoded = decode_plain(data, header, 32)
    assert decoded is not None
    assert decoded.shape == (rows, 300, 3)


def test_this_libjpegs_words_are_known_and_with_others_all_rows_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_stop_early()
    data = jpeg(300, 400)
    header = read_header(data)
    assert header is not None
    part = decode_plain(data, header, 32)
    assert part is not None
    assert part.shape[0] < 400
    part = part[:32].copy()
    monkeypatch.setattr("effnet_cluster.datasets.decoding.jpeg._ROWS_WERE_LEFT", re.compile("in other words"))
    can_stop_early.cache_clear()
    try:
        whole = decode_plain(data, header, 32)
        assert whole is not None
        assert whole.shape[0] == 400
        np.testing.assert_array_equal(whole[:32], part)
    finally:
        can_stop_early.cache_clear()


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_the_quick_way_is_the_librarys_quick_way_and_near_pillow(subsampling: str) -> None:
    data = jpeg(401, 300, quality=90, subsampling=subsampling)
    whole = simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    box = Box(40, 24, 200, 180)
    part = fast(data).crop(box, HUGE, quick=True)
    np.testing.assert_array_equal(part, whole[24:204, 40:240])
    off = np.abs(part.astype(int) - by_pillow(data)[24:204, 40:240])
    assert 0 < off.mean() < 2


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("size", [(640, 427), (333, 401), (320, 320), (8, 250)])
def test_a_reduced_scale_is_that_of_pillows_draft_mode(size: tuple[int, int], reduction: int) -> None:
    data = jpeg(*size)
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (size[0] // reduction, size[1] // reduction))
    expected = np.array(image)
    width, height = fast(data).width, fast(data).height
    side = min(width, height) // reduction
    crop = fast(data).crop(Box(0, 0, width, height), side)
    np.testing.assert_array_equal(crop, expected)
    # Half the picture: widened to whole pixels of the scale, and never below the size that is asked for.
    box = Box(width // 4, height // 4, width // 2, height // 2)
    part = fast(data).crop(box, side // 2)
    assert min(part.shape[:2]) >= side // 2
    top, left = box.top // reduction, box.left // reduction
    np.testing.assert_array_equal(part, expected[top : top + part.shape[0], left : left + part.shape[1]])
    assert abs(part.shape[0] * reduction - box.height) <= 2 * reduction


def test_a_crop_is_not_reduced_below_the_size_that_is_asked_for() -> None:
    picture = fast(jpeg(300, 300))
    assert picture.crop(Box(10, 20, 200, 100), 51).shape == (100, 200, 3)
    assert picture.crop(Box(10, 20, 200, 100), 50).shape == (50, 100, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_parts_and_reduced_scales_too(orientation: int, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = jpeg(160, 96, exif=exif, **options)
    expected = by_pillow(data)
    picture = fast(data)
    assert (picture.height, picture.width) == expected.shape[:2]
    np.testing.assert_array_equal(pixels(picture), expected)
    np.testing.assert_array_equal(picture.crop(Box(8, 16, 64, 48), HUGE), expected[16:64, 8:72])
    stored = Image.open(io.BytesIO(data))
    stored.draft("RGB", (80, 48))
    half = upright(np.array(stored), orientation)
    np.testing.assert_array_equal(picture.crop(Box(8, 16, 64, 48), 24), half[8:32, 4:36])


def test_orientation_in_xmp_is_applied() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = jpeg(60, 40, xmp=xmp)
    assert by_pillow(data).shape == (60, 40, 3)
    np.testing.assert_array_equal(pixels(open_picture(data)), by_pillow(data))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture() -> None:
    data = jpeg(60, 40, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(pixels(fast(data)), by_pillow(jpeg(60, 40)))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99, -1])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_truncated_file_is_an_error_even_where_the_crop_is_whole(options: dict[str, Any], keep: float) -> None:
    data = jpeg(200, 200, **options)
    cut = data[: int(len(data) * keep)] if keep > 0 else data[:-3]
    for box in (Box(0, 0, 200, 200), Box(0, 0, 200, 16)):
        with pytest.raises(DataError) as caught:
            open_picture(cut).crop(box, HUGE)
        assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), value=st.integers(0, 255), bottom=st.integers(1, 120))
def test_a_changed_byte_gives_what_pillow_makes_of_it(place: float, value: int, bottom: int) -> None:
    """Pillow repairs what it can; the fast path neither hides more nor less, nor does it crash."""
    data = bytearray(jpeg(100, 120, quality=85))
    data[int(place * (len(data) - 1))] = value
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:
        with pytest.raises(DataError):
            pixels(open_picture(bytes(data)))
        return
    picture = open_picture(bytes(data))
    np.testing.assert_array_equal(pixels(picture), expected)
    if expected.shape == (120, 100, 3):
        np.testing.assert_array_equal(picture.crop(Box(0, 0, 100, bottom), HUGE), expected[:bottom])


@settings(max_examples=200, deadline=None)
@given(head=st.integers(0, 700), tail=st.binary(max_size=60))
def test_any_bytes_have_a_header_or_none(head: int, tail: bytes) -> None:
    read_header(jpeg(20, 20)[:head] + tail)


def test_bytes_after_the_end_do_not_matter() -> None:
    data = jpeg(80, 120)
    np.testing.assert_array_equal(fast(data + b"\0" * 100).crop(Box(0, 0, 80, 20), HUGE), by_pillow(data)[:20])
    np.testing.assert_array_equal(pixels(fast(data + data)), by_pillow(data))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_an_error_before_it_is_decoded(width: int, height: int) -> None:
    data = bytearray(jpeg(16, 16))
    header = read_header(bytes(data))
    assert header is not None
    struct.pack_into(">HH", data, header.height_at, height, width)
    with pytest.raises(DataError, match="pixels"):
        open_picture(bytes(data))


def test_an_encoded_image_above_the_cap_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.decoding.images.MAX_IMAGE_BYTES", 100)
    with pytest.raises(DataError, match="bytes, more than the 100 allowed"):
        open_picture(jpeg(30, 30))


def test_what_is_not_a_plain_jpeg_is_left_to_pillow() -> None:
    part = CHINA[:40, :50]

    def encoded(image: Image.Image, kind: str, **options: Any) -> Any:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        picture = open_picture(buffer.getvalue())
        assert isinstance(picture, Picture)
        assert (picture.height, picture.width) == pixels(picture).shape[:2]
        return pixels(picture).astype(int)

    image = Image.fromarray(part)
    cmyk = encoded(image.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert np.abs(cmyk - part).max() <= 8
    wide = Image.fromarray(part[..., 0].astype(np.uint16) * 256 + 13)
    np.testing.assert_array_equal(encoded(wide, "PNG"), np.repeat(part[..., :1], 3, axis=2))
    alpha = np.linspace(0, 255, 50).round().astype(int)[None, :, None]
    rgba = Image.fromarray(np.concatenate([part, np.broadcast_to(alpha, (40, 50, 1))], axis=2).astype(np.uint8))
    over_white = (part * alpha + 255 * (255 - alpha)) / 255
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert np.abs(encoded(rgba, kind, **options) - over_white).max() <= 1
    frames = [Image.fromarray(np.roll(part, 9 * shift, axis=1)) for shift in range(3)]
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(moving, part)
