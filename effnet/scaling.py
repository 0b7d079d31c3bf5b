"""Compound scaling and its rounding rules (Tan & Le 2019, "EfficientNet", section 3.3; arXiv:1905.11946)."""

import math
from dataclasses import dataclass

ALPHA = 1.2
"""Base of the depth coefficient."""
BETA = 1.1
"""Base of the width coefficient."""
GAMMA = 1.15
"""Base of the resolution coefficient."""

_DIVISOR = 8


def round_channels(channels: float, width: float = 1.0) -> int:
    """Scale a channel count and round it to a multiple of 8, at least 8 and never below 90 % of the exact value.

    The rule of the reference implementation (tensorflow/tpu, ``efficientnet_model.round_filters``).
    """
    exact = channels * width
    rounded = max(_DIVISOR, int(exact + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * exact else rounded


def round_repeats(repeats: int, depth: float = 1.0) -> int:
    """Scale the number of blocks in a stage, rounding up (tensorflow/tpu, ``efficientnet_model.round_repeats``)."""
    return math.ceil(depth * repeats)


@dataclass(frozen=True)
class CompoundScale:
    """Multipliers of a baseline's depth (layers), width (channels) and resolution (pixels along an edge)."""

    depth: float
    width: float
    resolution: float

    @property
    def flops(self) -> float:
        """The factor by which the compute grows: depth * width² * resolution² (section 3.3)."""
        return self.depth * self.width**2 * self.resolution**2


def compound_scaling(phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> CompoundScale:
    """Return (alpha**phi, beta**phi, gamma**phi), equation 3 of the paper; compute grows by about 2**phi.

    The published B1 to B7 are *not* these values: their authors adjusted the coefficients by hand, so the named
    variants live as data in ``variants.VARIANTS``.
    """
    return CompoundScale(depth=alpha**phi, width=beta**phi, resolution=gamma**phi)
