"""Pillow's bicubic filter to the bit, compiled for the processor at hand: along one axis, for the outputs asked for.

Pillow filters one axis after the other, in integers: weights have 22 fractional bits, and each pass ends in whole
levels. Sums of such integers do not depend on their order, so they can be formed many at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RADIUS = 2.0
_SHARPNESS = -0.5  # "a" of Keys' cubic convolution kernel (IEEE Trans. ASSP 29(6), 1981), as Pillow sets it
_FRACTION_BITS = 22
_HALF = 1 << (_FRACTION_BITS - 1)
_CHANNELS = 3
_ROWS_AT_ONCE = 32  # their bytes fill a few of the widest vector registers


@dataclass(frozen=True, eq=False)
class Taps:
    """Which pixels of an axis make each output, and how much.

    Attributes:
        first, counts: uint64 (outputs,), the first pixel of each output and how many there are.
        weights: int32 (outputs, largest count), with 22 fractional bits.
    """

    first: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    weights: NDArray[np.int32]

    @property
    def needed(self) -> range:
        """The pixels that any output is made of."""
        return range(int(self.first[0]), int(self.first[-1] + self.counts[-1]))

    def after(self, start: int) -> "Taps":
        """The same for an axis without its first `start` pixels, none of which is needed."""
        return Taps(self.first - np.uint64(start), self.counts, self.weights)


@lru_cache(maxsize=512)
def taps(length: int, resized: int, start: int, outputs: int) -> Taps:
    """The outputs start, start + 1, ... of an axis of `length` pixels that becomes `resized` long.

    Every operation is one of Pillow's, in its order and in float64, so that the weights are the same integers.
    """
    scale = length / resized
    stretch = max(scale, 1.0)
    reach = _RADIUS * stretch
    centers = (np.arange(start, start + outputs) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    counts = np.minimum((centers + reach + 0.5).astype(np.int64), length) - first
    offsets = np.arange(counts.max())[:, None]
    weights = np.where(offsets < counts, _kernel((offsets + first - centers + 0.5) * (1.0 / stretch)), 0.0)
    weights = weights / np.add.reduce(weights, axis=0) * (1 << _FRACTION_BITS)  # along axis 0 NumPy adds one by one
    rounded = np.trunc(weights + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    return Taps(first.astype(np.uint64), counts.astype(np.uint64), np.ascontiguousarray(rounded.T))


def _kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(distance), _SHARPNESS
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < _RADIUS, far, 0.0))


def filter_columns(pixels: NDArray[np.uint8], columns: Taps) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) → (height, outputs, 3), both uint8."""
    output = np.empty((pixels.shape[0], len(columns.first), _CHANNELS), dtype=np.uint8)
    needed = columns.needed
    _require(columns, pixels.shape[1])
    turned = np.zeros((len(needed), _ROWS_AT_ONCE * _CHANNELS), dtype=np.uint8)
    part = np.ascontiguousarray(pixels), needed.start
    compiled()[0](*part, columns.first, columns.counts, columns.weights, turned, _sums(turned), output)
    return output


def filter_rows(pixels: NDArray[np.uint8], rows: Taps) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) → (outputs, width, 3), both uint8."""
    height, width, channels = pixels.shape
    output = np.empty((len(rows.first), width, channels), dtype=np.uint8)
    _require(rows, height)
    lines = np.ascontiguousarray(pixels).reshape(height, -1)
    compiled()[1](lines, rows.first, rows.counts, rows.weights, _sums(lines), output.reshape(len(output), -1))
    return output


def _sums(lines: NDArray[np.uint8]) -> NDArray[np.int32]:
    return np.empty(lines.shape[1], dtype=np.int32)


def _require(wanted: Taps, length: int) -> None:
    """The compiled code reads whatever memory it is told to."""
    if wanted.needed.stop > length:
        raise IndexError(f"pixels up to {wanted.needed.stop} are needed, there are {length}")


@cache
def compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    """`_columns` and `_rows`, compiled (0.8 seconds) when first asked for; they leave other threads running."""
    import numba as nb

    def constant(kind: Any, dimensions: int) -> Any:
        return nb.types.Array(kind, dimensions, "C", readonly=True)

    axis = constant(nb.uint64, 1), constant(nb.uint64, 1), constant(nb.int32, 2)
    scratch = nb.uint8[:, ::1], nb.int32[::1]
    columns = nb.void(constant(nb.uint8, 3), nb.uint64, *axis, *scratch, nb.uint8[:, :, ::1])
    rows = nb.void(constant(nb.uint8, 2), *axis, *scratch[1:], nb.uint8[:, ::1])
    return nb.njit(columns, nogil=True)(_columns), nb.njit(rows, nogil=True)(_rows)


# For the compiler: unsigned indices are not checked for being counted from the end; sums are 32 bits wide, as Pillow's
# are, only where each step says so.
_I32, _U64 = np.int32, np.uint64


def _rows(
    pixels: NDArray[np.uint8],
    first: NDArray[np.uint64],
    counts: NDArray[np.uint64],
    weights: NDArray[np.int32],
    sums: NDArray[np.int32],
    output: NDArray[np.uint8],
) -> None:
    outputs, width = _U64(output.shape[0]), _U64(output.shape[1])
    for y in range(outputs):
        for x in range(width):
            sums[x] = _HALF
        for tap in range(counts[y]):
            weight, line = weights[y, tap], first[y] + tap
            for x in range(width):
                sums[x] = _I32(sums[x] + _I32(_I32(pixels[line, x]) * weight))
        for x in range(width):
            output[y, x] = min(max(sums[x] >> _FRACTION_BITS, 0), 255)


def _columns(
    pixels: NDArray[np.uint8],
    start: np.uint64,
    first: NDArray[np.uint64],
    counts: NDArray[np.uint64],
    weights: NDArray[np.int32],
    turned: NDArray[np.uint8],
    sums: NDArray[np.int32],
    output: NDArray[np.uint8],
) -> None:
    height, outputs = _U64(output.shape[0]), _U64(output.shape[1])
    # A few rows turned on their side: what is added up side by side then lies side by side.
    columns, together = _U64(turned.shape[0]), _U64(turned.shape[1])
    top = _U64(0)
    while top < height:
        rows = min(_U64(_ROWS_AT_ONCE), height - top)
        for y in range(rows):
            for x in range(columns):
                for channel in range(_U64(_CHANNELS)):
                    turned[x, _U64(_CHANNELS) * y + channel] = pixels[top + y, start + x, channel]
        for x in range(outputs):
            for i in range(together):
                sums[i] = _HALF
            for tap in range(counts[x]):
                weight, line = weights[x, tap], first[x] - start + tap
                for i in range(together):
                    sums[i] = _I32(sums[i] + _I32(_I32(turned[line, i]) * weight))
            for y in range(rows):
                for channel in range(_U64(_CHANNELS)):
                    level = sums[_U64(_CHANNELS) * y + channel] >> _FRACTION_BITS
                    output[top + y, x, channel] = min(max(level, 0), 255)
        top += rows
