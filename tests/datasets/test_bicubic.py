"""One axis at a time against Pillow's own filter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_cluster.datasets.decoding.bicubic import filter_columns, filter_rows, taps

lengths = st.integers(1, 150)


@settings(max_examples=100, deadline=None)
@given(length=lengths, other=lengths, resized=lengths, part=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=lengths)
def test_a_part_of_either_axis_is_pillows_to_the_bit(
    length: int, other: int, resized: int, part: tuple[float, float], seed: int
) -> None:
    start = int(part[0] * (resized - 1))
    wanted = slice(start, start + 1 + int(part[1] * (resized - 1 - start)))
    filtered = taps(length, resized, start, wanted.stop - start)
    # Black and white alone overshoot as far as anything can.
    wide = np.random.default_rng(seed).choice(np.array([0, 255, 128], np.uint8), (other, length, 3))
    by_pillow = np.array(Image.fromarray(wide).resize((resized, other), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(filter_columns(wide, filtered), by_pillow[:, wanted])
    high = np.ascontiguousarray(wide.transpose(1, 0, 2))
    by_pillow = np.array(Image.fromarray(high).resize((other, resized), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(filter_rows(high, filtered), by_pillow[wanted])


def test_pixels_that_are_not_needed_need_not_be_there() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 7, 3), np.uint8)
    whole = taps(90, 40, 10, 8)
    needed = whole.needed
    assert 0 < needed.start < needed.stop < 90
    part = pixels[needed.start : needed.stop]
    np.testing.assert_array_equal(filter_rows(part, whole.after(needed.start)), filter_rows(pixels, whole))


def test_missing_pixels_are_noticed() -> None:
    pixels, all_of_30 = np.zeros((29, 29, 3), np.uint8), taps(30, 20, 0, 20)
    for apply in (filter_rows, filter_columns):
        with pytest.raises(IndexError, match="pixels up to 30 are needed, there are 29"):
            apply(pixels, all_of_30)


def test_pixels_may_be_read_only_and_anywhere_in_memory() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    part, columns = pixels[3:33, 5:45], taps(40, 21, 0, 21)
    expected = filter_columns(part.copy(), columns)
    pixels.flags.writeable = False
    np.testing.assert_array_equal(filter_columns(part, columns), expected)
