"""How an image becomes the numbers that a network was trained on."""

from __future__ import annotations

from typing import NamedTuple

from ...effnet.pretrained import Interpolation

Channels = tuple[float, float, float]


class Normalization(NamedTuple):
    """Mean and deviation of each channel, of values in [0, 1]."""

    mean: Channels
    std: Channels


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The channel statistics of ImageNet that torchvision's, timm's and the paper's weights were trained with."""


class Inputs(NamedTuple):
    """What weights want of their images besides a size: normalisation, and the interpolation of evaluation's resize."""

    normalization: Normalization = IMAGENET
    interpolation: Interpolation = "bicubic"
