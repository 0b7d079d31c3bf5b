"""Photographs without a download: crops of the two that scikit-learn ships."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor


def crops(count: int, width: int, height: int, seed: int = 0) -> Iterator[Image.Image]:
    """`count` random crops, resized to `width` by `height` pixels."""
    rng = np.random.Generator(np.random.Philox(seed))
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    for _ in range(count):
        picture = pictures[rng.integers(len(pictures))]
        share = rng.uniform(0.5, 1.0)
        wide, high = int(picture.width * share), int(picture.height * share)
        left, top = (int(rng.integers(most + 1)) for most in (picture.width - wide, picture.height - high))
        yield picture.crop((left, top, left + wide, top + high)).resize((width, height), Image.Resampling.BILINEAR)


def images(count: int, side: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, side, side), channels last in memory, as loaders deliver them."""
    pixels = np.stack([np.asarray(crop) for crop in crops(count, side, side, seed)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def jpeg(picture: Image.Image) -> bytes:
    """The picture as a JPEG of common quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
