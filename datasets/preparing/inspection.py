"""Inspecting a dataset: images per class and split, their sizes, and how balanced the classes are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.images import dimensions
from ..errors import DataError
from ..manifest import Manifest, Split
from ..reading.reader import ShardReader

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_MEASURED_IMAGES = 512


@dataclass(frozen=True)
class SplitSummary:
    """One split.

    Attributes:
        images, shards, bytes: how many images and shards, and what the shards take.
        counts: images of each class, in the order of the labels.
        measured: on how many images the sides were measured.
        short_side, long_side: the `QUANTILES` of the images' sides in pixels.
    """

    images: int
    shards: int
    bytes: int
    counts: tuple[int, ...]
    measured: int
    short_side: tuple[int, ...]
    long_side: tuple[int, ...]

    @property
    def imbalance(self) -> float:
        """Images of the largest class over those of the smallest; infinite where a class has none."""
        return max(self.counts) / min(self.counts) if min(self.counts) else math.inf

    @property
    def evenness(self) -> float:
        """Entropy of the labels over that of a uniform distribution: 1 where all classes are equally frequent."""
        shares = np.array([count for count in self.counts if count]) / self.images
        if len(self.counts) == 1:
            return 1.0
        return float(-(shares * np.log(shares)).sum() / math.log(len(self.counts)))


@dataclass(frozen=True)
class Inspection:
    """All splits of a dataset, and what its manifest says of the whole."""

    name: str
    location: str
    digest: str
    classes: tuple[str, ...]
    image_size: int
    mirror_safe: bool
    splits: Mapping[str, SplitSummary]

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON; counts by class name."""
        return {
            "name": self.name,
            "location": self.location,
            "digest": self.digest,
            "image_size": self.image_size,
            "mirror_safe": self.mirror_safe,
            "classes": list(self.classes),
            "splits": {name: self._split(split) for name, split in self.splits.items()},
        }

    def _split(self, split: SplitSummary) -> dict[str, Any]:
        def quantiles(values: tuple[int, ...]) -> dict[str, int]:
            return {f"{quantile:g}": value for quantile, value in zip(QUANTILES, values, strict=True)}

        return {
            "images": split.images,
            "shards": split.shards,
            "bytes": split.bytes,
            "counts": dict(zip(self.classes, split.counts, strict=True)),
            "imbalance": split.imbalance if math.isfinite(split.imbalance) else None,
            "evenness": split.evenness,
            "measured": split.measured,
            "short_side": quantiles(split.short_side),
            "long_side": quantiles(split.long_side),
        }


def inspect_dataset(manifest: Manifest) -> Inspection:
    """Count by the index, and measure up to 512 images spread over each split by their headers.

    Of a remote dataset only each split's first shard is fetched, and measured.

    Raises:
        DataError: a shard cannot be read, or an image is damaged.
    """
    splits = {name: _summary(manifest, name, split) for name, split in manifest.splits.items()}
    return Inspection(
        manifest.name,
        manifest.location,
        manifest.digest,
        manifest.classes,
        manifest.image_size,
        manifest.mirror_safe,
        splits,
    )


def at_hand(manifest: Manifest, split: Split) -> NDArray[np.int64]:
    """The samples that can be looked at without fetching many shards: all of local ones, else the first shard's."""
    rows = np.arange(len(split))
    return rows if manifest.remote is None else rows[split.shard == 0]


def spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of `rows`, evenly spread over them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]


def _summary(manifest: Manifest, name: str, split: Split) -> SplitSummary:
    reader = ShardReader(manifest, name, window=1)
    sizes = []
    for sample in spread(at_hand(manifest, split), _MEASURED_IMAGES).tolist():
        data = reader.read(sample).data
        try:
            sizes.append(dimensions(data))
        except DataError as error:
            raise DataError(f"{reader.where(sample)}: {error}") from error
    reader.close()
    sides = np.sort(np.array(sizes), axis=1)
    short_side, long_side = (
        tuple(int(value) for value in np.quantile(of_images, QUANTILES, method="nearest")) for of_images in sides.T
    )
    return SplitSummary(
        images=len(split),
        shards=len(split.shards),
        bytes=sum(shard.bytes for shard in split.shards),
        counts=tuple(np.bincount(split.label, minlength=len(manifest.classes)).tolist()),
        measured=len(sizes),
        short_side=short_side,
        long_side=long_side,
    )
