"""Finding duplicates: images of a source that are equal, by a hash of their bytes or of their pixels."""

import hashlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..decoding.images import EncodedImage, decode_rgb
from ..errors import DataError
from ..manifest import TRAIN
from .processes import Mapper
from .sources import Record
from .splitting import several_values

_DIGEST_BYTES = 32
_RECORDS_PER_TASK = 1024


@dataclass(frozen=True, eq=False)
class ImageHashes:
    """sha256 of each image's stored bytes and, where they were asked for, of its pixels.

    Both are uint8 (N, 32), the pixels (0, 32) where nobody asked. The pixels are those that a network sees: RGB,
    upright, with their width and height. Unlike perceptual hashes, these find equal pictures and not similar ones.
    """

    content: NDArray[np.uint8]
    pixels: NDArray[np.uint8]

    @classmethod
    def of(cls, images: Sequence[EncodedImage], pixels: bool) -> "ImageHashes":
        """Those of some images. Raises DataError if one cannot be decoded, where pixels are asked for."""
        content = [hashlib.sha256(image.data).digest() for image in images]
        return cls(_array(content), _array([_pixel_digest(image) for image in images] if pixels else []))

    @classmethod
    def of_bytes(cls, images: Iterable[bytes]) -> "ImageHashes":
        """Those of images that nobody decodes, one after the other."""
        return cls(_array([hashlib.sha256(data).digest() for data in images]), _array([]))

    @classmethod
    def join(cls, parts: Sequence["ImageHashes"]) -> "ImageHashes":
        """Those of several parts, one after the other."""
        return cls(np.concatenate([p.content for p in parts]), np.concatenate([p.pixels for p in parts]))

    def by(self) -> dict[str, NDArray[np.uint8]]:
        """What two images can have in common: "bytes" and, where they are known, "pixels"."""
        return {"bytes": self.content} | ({"pixels": self.pixels} if len(self.pixels) else {})

    def take(self, rows: NDArray[np.bool_]) -> "ImageHashes":
        """Those of some images; rows: bool (N,)."""
        return ImageHashes(self.content[rows], self.pixels[rows] if len(self.pixels) else self.pixels)

    def groups(self) -> NDArray[np.int64]:
        """A number for every image, int64 (N,), the same where images are equal: by pixels if known, else by bytes."""
        # Equal bytes have equal pixels, so the last of the two joins the most.
        return _numbered(list(self.by().values())[-1])


Group = tuple[str, ...]
"""Equal images: all their samples, as "split/key"."""


class Duplicates(NamedTuple):
    """Images that occur more than once, by where they do.

    Attributes:
        same: what they have in common, "bytes" or "pixels".
        across_splits: in more than one split.
        across_classes: under more than one class, of one split or of several; these may be across splits too.
        within_class: more than once in a class of a split, and nowhere else.
    """

    same: str
    across_splits: tuple[Group, ...] = ()
    across_classes: tuple[Group, ...] = ()
    within_class: tuple[Group, ...] = ()


def find_duplicates(
    keys: Mapping[str, Sequence[str]], labels: Mapping[str, ArrayLike], found: Mapping[str, ImageHashes]
) -> list[Duplicates]:
    """Images that occur more than once: by bytes and, if pixels were hashed, by pixels.

    Args:
        keys, labels, found: by split, in the same order of samples; labels are class numbers.
    """
    names = [f"{split}/{key}" for split, of_split in keys.items() for key in of_split]
    split_numbers = np.repeat(np.arange(len(keys)), [len(of_split) for of_split in keys.values()])
    classes = np.concatenate([np.asarray(labels[split], dtype=np.int64) for split in keys])
    joined = ImageHashes.join([found[split] for split in keys])
    return [
        _duplicates(same, _numbered(digests), split_numbers, classes, names) for same, digests in joined.by().items()
    ]


def in_other_splits(found: Mapping[str, ImageHashes]) -> NDArray[np.bool_]:
    """Which images of "train" are, by bytes or by pixels, in another split too; shape (samples of "train",)."""
    count = len(found[TRAIN].content)
    joined = ImageHashes.join([found[TRAIN], *(f for split, f in found.items() if split != TRAIN)])
    shared = np.zeros(count, dtype=np.bool_)
    for digests in joined.by().values():
        numbers = _numbered(digests)
        shared |= np.isin(numbers[:count], numbers[count:])
    return shared


def hash_images(
    splits: Mapping[str, Sequence[Record]], pixels: bool, mapper: Mapper
) -> Generator[tuple[str, int, ImageHashes], None, None]:
    """Read all images of a source; yields (split, number of the first image, hashes), in any order."""
    tasks = (
        _Task(split, begin, tuple(records[begin : begin + _RECORDS_PER_TASK]), pixels)
        for split, records in splits.items()
        for begin in range(0, len(records), _RECORDS_PER_TASK)
    )
    return mapper(_hash_task, tasks)


class _Task(NamedTuple):
    split: str
    begin: int
    records: tuple[Record, ...]
    pixels: bool


def _hash_task(task: _Task) -> tuple[str, int, ImageHashes]:
    # One image at a time: a thousand large ones would not fit the memory.
    parts = [_hashes(record, task.pixels) for record in task.records]
    return task.split, task.begin, ImageHashes.join(parts)


def _hashes(record: Record, pixels: bool) -> ImageHashes:
    try:
        return ImageHashes.of([record.read()], pixels)
    except DataError:  # told when it is to be stored; until then it equals no other
        alone = _array([hashlib.sha256(f"damaged: {record.key}".encode()).digest()])
        return ImageHashes(alone, alone if pixels else _array([]))


def _array(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)


def _pixel_digest(image: EncodedImage) -> bytes:
    rgb = decode_rgb(image.data)
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).digest()


def _numbered(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers that are equal where the digests are, shape (N,)."""
    # Not numpy's "S32": its comparison ignores zero bytes at the end.
    rows = np.ascontiguousarray(digests).view(np.dtype((np.void, _DIGEST_BYTES))).ravel()
    return np.unique(rows, return_inverse=True)[1].astype(np.int64)


def _duplicates(
    same: str, numbers: NDArray[np.int64], splits: NDArray[np.int64], classes: NDArray[np.int64], names: Sequence[str]
) -> Duplicates:
    in_splits, in_classes = several_values(numbers, splits), several_values(numbers, classes)
    repeated = np.bincount(numbers) > 1
    kinds = (in_splits, in_classes, repeated & ~in_splits & ~in_classes)
    return Duplicates(same, *(_groups(numbers, names, wanted) for wanted in kinds))


def _groups(numbers: NDArray[np.int64], names: Sequence[str], wanted: NDArray[np.bool_]) -> tuple[Group, ...]:
    """The rows of each wanted number, in the order of their first ones."""
    groups: dict[int, list[str]] = {}
    for row in np.flatnonzero(wanted[numbers]).tolist():
        groups.setdefault(int(numbers[row]), []).append(names[row])
    return tuple(tuple(group) for group in groups.values())
