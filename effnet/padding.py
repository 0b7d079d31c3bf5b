"""The two ways to pad a convolution, and the arithmetic that they share with the cost model; no torch."""

from typing import Literal, get_args

Padding = Literal["symmetric", "same"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)
"""Where zeros go so that an edge of n pixels becomes ceil(n / stride).

``symmetric``: kernel // 2 on both sides (torchvision). ``same``: TensorFlow's "SAME", only as many as are needed, the
odd one after the last pixel. They differ where the stride exceeds 1: there, weights trained with one see the image
shifted by a pixel with the other.
"""


def strided(edge: int, stride: int) -> int:
    """The edge that either padding makes of ``edge`` pixels, for odd kernels."""
    return -(-edge // stride)


def same_padding(edge: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels that "SAME" adds before and after an edge of ``edge`` pixels (TensorFlow, ``tf.nn``, notes on padding)."""
    total = max((strided(edge, stride) - 1) * stride + kernel - edge, 0)
    return total // 2, total - total // 2


def pads_ahead(padding: Padding, kernel: int, stride: int) -> bool:
    """Whether a layer with an odd kernel cannot leave the padding to its kernel routine, but must copy its input."""
    return padding == "same" and stride > 1 and kernel > 1
