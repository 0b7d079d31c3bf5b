"""Small real photographs for tests: crops of the two that scikit-learn ships."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def cut_photos(root: Path, sides: tuple[int, int], count: int) -> Path:
    """Write ROOT/{china,flower}/NN.jpg, `count` crops each, whose sides are `sides` pixels from and to; return ROOT."""
    random = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = random.integers(sides[0], sides[1] + 1, 2)
            top, left = random.integers(0, 427 - height), random.integers(0, 640 - width)
            crop = Image.fromarray(pixels[top : top + height, left : left + width])
            crop.save(root / name / f"{number:02d}.jpg", quality=90)
    return root
