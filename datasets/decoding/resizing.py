"""Resizing pictures: bilinear and fast for training; as Pillow does it for evaluation and the model that is served."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Pixels = int | torch.SymInt
"""A size in pixels; symbolic where `torch.export` traces a program for all sizes."""

Interpolation = Literal["bilinear", "bicubic"]

_HALF_UP = 0.5 + 2**-10


def resize_bilinear(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """Pixels (height, width, 3) resized to uint8 (3, side, side), channels last in memory: bilinear, antialiased.

    This is torchvision's filter for tensors, rows first where they shrink. It computes in torch's integer arithmetic:
    the same on every processor, five times as fast as Pillow, and at most two levels away from its pixels.
    """
    image = as_image(pixels)
    if len(pixels) > side:  # torch would begin with the columns, the slower half of the work, and that in all rows
        image = F.interpolate(image, (side, pixels.shape[1]), mode="bilinear", antialias=True)
    return F.interpolate(image, (side, side), mode="bilinear", antialias=True)[0]


def resize_as_pillow(images: Tensor, height: Pixels, width: Pixels, interpolation: Interpolation = "bicubic") -> Tensor:
    """Images (N, 3, H, W) resized to (N, 3, height, width) in whole levels from 0 to 255, antialiased.

    The result is Pillow's within one level, but for a few values per million of a photograph, which are two levels off:
    a level by which the first axis differs can add to that of the second.

    Args:
        images: uint8 on a CPU, which is fast; or floating point, which any device, `torch.export` and ONNX can do.
        height, width: of the output, in pixels.
        interpolation: the filter.

    Returns:
        The input's type, with the same levels, but for rare differences as above, whichever type it is.
    """
    rows, columns = images.shape[-2], images.shape[-1]
    # Pillow resizes along one axis after the other and ends each in whole levels, so their order shows at sharp edges.
    # Columns come first, unless far more rows than columns go (Pillow 13, its pull request 9549).
    excess = torch.sym_max(rows - height, 0) - 2 * torch.sym_max(columns - width, 0)
    rows_first = torch.sym_max(torch.sym_min(excess, 1), 0)  # 0 or 1: torch.export cannot nest `torch.sym_ite`
    between = [rows + rows_first * (height - rows), width + rows_first * (columns - width)]
    for size in (between, [height, width]):
        images = F.interpolate(images, size, mode=interpolation, antialias=True)  # type: ignore[arg-type]
        if images.is_floating_point():
            # Halves, which rational factors make often, go up as in Pillow, and by more than float32 can be off:
            # another engine that computes 0.49999 for them must not come out a level lower.
            images = (images + _HALF_UP).floor().clamp(0, 255)
    return images


class EvaluationCrop(NamedTuple):
    """How evaluation cuts a square out of a picture: resized to `height` x `width`, its corner at (`top`, `left`)."""

    height: Pixels
    width: Pixels
    top: Pixels
    left: Pixels


def evaluation_crop(height: Pixels, width: Pixels, side: int, resize: int) -> EvaluationCrop:
    """The central square of `side` pixels, after the shorter side of a picture has become `resize` pixels long.

    Where the shorter side is at most `side` it becomes `side`: there is no border to spare. Written without a branch on
    the size, so that one exported program serves all sizes.
    """
    short = torch.sym_min(height, width)
    resized = torch.sym_ite(short > side, resize, side)
    # torchvision rounds the longer side down and the crop's corner half to even; both are kept to the letter.
    new_height, new_width = height * resized // short, width * resized // short
    return EvaluationCrop(new_height, new_width, _half(new_height - side), _half(new_width - side))


def _half(margin: Pixels) -> Pixels:
    """Half a margin, rounded half to even; without floats, for symbolic sizes."""
    return (margin + (margin % 4) // 3) // 2


def as_image(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels (height, width, 3) as one image (1, 3, height, width), without a copy."""
    return torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
