"""Finding duplicates: images of a source that are equal, by a hash of their bytes or of their pixels."""

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decoding.images import EncodedImage, decode_rgb
from ..manifest import TRAIN
from .processes import Mapper
from .sources import Record

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
    def join(cls, parts: Sequence["ImageHashes"]) -> "ImageHashes":
        """Those of several parts, one after the other."""
        return cls(np.concatenate([p.content for p in parts]), np.concatenate([p.pixels for p in parts]))

    def by(self) -> dict[str, NDArray[np.uint8]]:
        """What two images can have in common: "bytes" and, where they are known, "pixels"."""
        return {"bytes": self.content} | ({"pixels": self.pixels} if len(self.pixels) else {})


class Duplicates(NamedTuple):
    """Images that are in more than one split.

    Attributes:
        same: what they have in common, "bytes" or "pixels".
        groups: for each such image all its samples, as "split/key".
    """

    same: str
    groups: tuple[tuple[str, ...], ...]


def find_duplicates(keys: Mapping[str, Sequence[str]], found: Mapping[str, ImageHashes]) -> list[Duplicates]:
    """Images that several splits share: by bytes and, if pixels were hashed, by pixels.

    Args:
        keys, found: by split, in the same order of samples.
    """
    names = [f"{split}/{key}" for split, of_split in keys.items() for key in of_split]
    split_numbers = np.repeat(np.arange(len(keys)), [len(of_split) for of_split in keys.values()])
    joined = ImageHashes.join([found[split] for split in keys])
    return [
        Duplicates(same, tuple(_groups(_numbered(digests), split_numbers, names)))
        for same, digests in joined.by().items()
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
    parts = [ImageHashes.of([record.read()], task.pixels) for record in task.records]
    return task.split, task.begin, ImageHashes.join(parts)


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


def _groups(numbers: NDArray[np.int64], splits: NDArray[np.int64], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if not len(numbers):
        return
    first, last = np.full(numbers.max() + 1, len(names)), np.full(numbers.max() + 1, -1)
    np.minimum.at(first, numbers, splits)
    np.maximum.at(last, numbers, splits)
    rows = np.flatnonzero((first < last)[numbers])
    groups: dict[int, list[str]] = {}
    for row in rows.tolist():
        groups.setdefault(int(numbers[row]), []).append(names[row])
    yield from (tuple(group) for group in groups.values())
