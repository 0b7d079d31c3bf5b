"""Resizing a part of a picture against resizing all of it."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from effnet_cluster.datasets.decoding.resampling import ResizedCut, fast_resize

FLOWER = load_sample_image("flower.jpg").copy()
sides = st.integers(1, 400)


@settings(max_examples=120, deadline=None)
@given(
    columns=sides,
    rows=sides,
    width=st.integers(1, 300) | st.sampled_from([64, 128, 256]),
    height=st.integers(1, 300) | st.sampled_from([64, 128, 256]),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    data=st.data(),
)
def test_a_cut_of_the_resized_picture_is_pillows_to_the_bit(
    columns: int, rows: int, width: int, height: int, corner: tuple[float, float], data: st.DataObject
) -> None:
    side = data.draw(st.integers(1, min(width, height)))
    left, top = int(corner[0] * (width - side)), int(corner[1] * (height - side))
    pixels = FLOWER[:rows, :columns]
    whole = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    expected = whole[top : top + side, left : left + side]
    cut = ResizedCut(columns, rows, width, height, left, top, side)
    enough = np.ascontiguousarray(pixels[: cut.needed.stop])
    np.testing.assert_array_equal(cut.of(enough), expected)


def test_rows_beyond_the_cut_are_not_needed() -> None:
    # ImageNet's usual case: 375 rows to 256, of which 16 are cut off above and below.
    assert ResizedCut(500, 375, 341, 256, 58, 16, 224).needed == range(21, 354)


@settings(max_examples=40, deadline=None)
@given(columns=sides, rows=sides, side=st.integers(1, 96))
def test_the_fast_filter_is_torchvisions_and_close_to_pillows(columns: int, rows: int, side: int) -> None:
    pixels = np.ascontiguousarray(FLOWER[:rows, :columns])
    output = fast_resize(pixels, side)
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
    assert torch.equal(fast_resize(part, 50), fast_resize(np.ascontiguousarray(part), 50))
