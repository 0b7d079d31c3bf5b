"""Small real data: the digits, and a flower_photos-like folder cut from scikit-learn's two photographs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image

from effnet_cluster.datasets import Manifest, prepare, prepare_digits

from ..photos import cut_photos

CROPS_PER_CLASS = 10

# A busy machine is no reason to fail a property.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare_digits(tmp_path_factory.mktemp("digits") / "shards")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/{china,flower}/NN.jpg: ten crops each, 80 to 120 pixels, of real photographs."""
    return cut_photos(tmp_path_factory.mktemp("source") / "photos", (80, 120), CROPS_PER_CLASS)


@pytest.fixture(scope="session")
def photo_shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The photos in shards of three samples: many small shards, so that blocks and boundaries matter."""
    return prepare(photos, tmp_path_factory.mktemp("photos") / "shards", samples_per_shard=3)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """Build ROOT/CLASS/*.png with the given number of distinct 4x4 images a class (or "split/class")."""

    def make(counts: dict[str, int]) -> Path:
        root = tmp_path / "raw"
        for value, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4), (value * 40, number, 0)).save(root / folder / f"{number:03d}.png")
        return root

    return make
