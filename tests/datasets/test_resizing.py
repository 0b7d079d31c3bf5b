"""Resizing against torchvision and Pillow, for photographs and for pictures that are nothing but edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import data as scikit_image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from effnet_cluster.datasets.decoding.resizing import as_image, evaluation_crop, resize_as_pillow, resize_bilinear

FLOWER = load_sample_image("flower.jpg").copy()
PHOTOS = {
    "china": load_sample_image("china.jpg").copy(),
    "flower": FLOWER,
    "astronaut": scikit_image.astronaut(),
    "cat": scikit_image.chelsea(),
    "coffee": scikit_image.coffee(),
}
sides = st.integers(1, 400)


def bicubic(pixels: NDArray[np.uint8], height: int, width: int, dtype: torch.dtype = torch.uint8) -> NDArray[np.int64]:
    image = as_image(np.ascontiguousarray(pixels)).to(dtype)
    levels = resize_as_pillow(image, height, width)[0].permute(1, 2, 0)
    assert levels.dtype == dtype
    assert torch.equal(levels, levels.round().clamp(0, 255) if dtype.is_floating_point else levels)
    return levels.numpy().astype(int)


def by_pillow(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.int64]:
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)).astype(int)


def require_close(one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Within one level, but for rare values that are two levels off; and equal nearly everywhere."""
    off = np.abs(one - other)
    # A picture of one row or column is the same all along the other axis, so what differs there counts once.
    for axis in (0, 1):
        if (off == off.take([0], axis)).all():
            off = off.take([0], axis)
    assert off.max() <= 2
    assert (off > 1).sum() <= 2 + off.size / 5_000
    assert (off > 0).sum() <= 8 + off.size / 40


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("side", [32, 224, 256, 299])
def test_photographs_are_pillows_within_one_level_but_for_a_few_values_per_million(name: str, side: int) -> None:
    photo = PHOTOS[name]
    size = evaluation_crop(photo.shape[0], photo.shape[1], side, side)
    expected = by_pillow(photo, int(size.height), int(size.width))
    for dtype in (torch.uint8, torch.float32):
        off = np.abs(bicubic(photo, int(size.height), int(size.width), dtype) - expected)
        assert off.max() <= 2
        assert (off > 1).sum() <= 1 + off.size / 40_000
        assert (off > 0).mean() < 0.01


@settings(max_examples=150, deadline=None)
@given(
    rows=sides,
    columns=sides,
    height=st.integers(1, 300) | st.sampled_from([64, 128, 256]),
    width=st.integers(1, 300) | st.sampled_from([64, 128, 256]),
    kind=st.sampled_from(["photo", "noise", "edges"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_sizes_are_pillows_within_one_level_but_for_rare_values(
    rows: int, columns: int, height: int, width: int, kind: str, seed: int
) -> None:
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    pictures = {"photo": FLOWER[:rows, :columns], "noise": noise, "edges": (noise // 128) * np.uint8(255)}
    picture = pictures[kind]
    levels, as_floats = (bicubic(picture, height, width, dtype) for dtype in (torch.uint8, torch.float32))
    expected = by_pillow(picture, height, width)
    require_close(levels, expected)
    require_close(as_floats, expected)
    require_close(levels, as_floats)


@settings(max_examples=200)
@given(height=sides, width=sides, side=st.integers(1, 300), margin=st.integers(0, 60))
def test_the_crop_of_evaluation_is_torchvisions(height: int, width: int, side: int, margin: int) -> None:
    crop = evaluation_crop(height, width, side, side + margin)
    short = side + margin if min(height, width) > side else side
    # A picture of coordinates would not tell sizes apart; torchvision's own arithmetic does.
    resized = functional.resize(torch.empty(1, height, width, device="meta"), [short])
    assert (crop.height, crop.width) == resized.shape[1:]
    assert (crop.top, crop.left) == (round((crop.height - side) / 2.0), round((crop.width - side) / 2.0))
    assert 0 <= crop.top <= crop.height - side
    assert 0 <= crop.left <= crop.width - side


@settings(max_examples=40, deadline=None)
@given(columns=sides, rows=sides, side=st.integers(1, 96))
def test_the_bilinear_filter_is_torchvisions_and_close_to_pillows(columns: int, rows: int, side: int) -> None:
    pixels = np.ascontiguousarray(FLOWER[:rows, :columns])
    output = resize_bilinear(pixels, side)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    plain = functional.resize(tensor, [side, side], InterpolationMode.BILINEAR, antialias=True)
    rows_first = functional.resize(tensor, [side, columns], InterpolationMode.BILINEAR, antialias=True)
    expected = functional.resize(rows_first, [side, side], InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(output, expected if rows > side else plain)
    assert (output.int() - plain.int()).abs().max() <= 1  # either order ends each step in whole levels
    by_pillow = np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(output.permute(1, 2, 0).numpy() - by_pillow).max() <= 2


def test_where_the_pixels_lie_in_memory_does_not_change_the_result() -> None:
    part = FLOWER[20:220, 31:250]
    whole = np.ascontiguousarray(part)
    assert torch.equal(resize_bilinear(part, 50), resize_bilinear(whole, 50))
    assert torch.equal(resize_as_pillow(as_image(part), 40, 50), resize_as_pillow(as_image(whole), 40, 50))
