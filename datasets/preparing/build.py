"""Building one shard: a task that any process can do, which ends in a tar and its part of the index."""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decoding.images import EncodedImage, TooLargeError
from ..errors import DataError
from ..files import replacing
from ..manifest import Shard, Split
from .duplicates import ImageHashes
from .members import LabelMember, read_members
from .names import printable
from .reencode import Reencoding
from .shards import write_shard
from .sources import Record

_CLS = LabelMember("cls")
_UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile)
_COLUMNS = ("offset", "size", "label", "keys", "short_side", "damaged")


class ShardTask(NamedTuple):
    """What `build_shard` needs to know.

    Attributes:
        number: of the task among all.
        root: folder of the dataset that is being built; the processes that build share it.
        name: of the shard, relative to `root`.
        completion: file that is written when the shard is finished.
        records, labels: the samples in order.
        reencoding: None: images stay as they are.
        pixels: whether to hash the pixels too.
        inputs: digest of all that decides what the shard will hold.
    """

    number: int
    root: Path
    name: str
    completion: Path
    records: tuple[Record, ...]
    labels: tuple[int, ...]
    reencoding: Reencoding | None
    pixels: bool
    inputs: str


@dataclass(frozen=True, eq=False)
class BuiltShard:
    """A finished shard: its entry in the manifest, its rows of the index, and what is known of its images.

    Attributes:
        offset, size: int64 (N,); label: int32 (N,); keys: bytes (N,): as in `Split`.
        short_side: int32 (N,), shorter side of the stored images in pixels.
        hashes: of the source's images.
        damaged: str (D, 2), for each image that could not be used where it is from, and why; the shard lacks it.
    """

    number: int
    inputs: str
    shard: Shard
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int32]
    keys: NDArray[np.bytes_]
    short_side: NDArray[np.int32]
    hashes: ImageHashes
    damaged: NDArray[np.str_]

    def save(self, path: Path) -> None:
        """Write it to `path` in one step."""
        arrays = {column: getattr(self, column) for column in _COLUMNS}
        shard = [self.shard.name, str(self.shard.bytes), self.shard.sha256, self.inputs]
        with replacing(path) as fresh, fresh.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                shard=np.array(shard),
                content=self.hashes.content,
                pixels=self.hashes.pixels,
                **arrays,
            )

    @classmethod
    def load(cls, path: Path, number: int) -> "BuiltShard":
        """Read what `save` has written. Raises OSError, ValueError, KeyError or BadZipFile if it is damaged."""
        with np.load(path, allow_pickle=False) as arrays:
            name, size, digest, inputs = arrays["shard"].tolist()
            columns: dict[str, Any] = {column: arrays[column] for column in _COLUMNS}
            shard = Shard(name, int(size), digest, len(columns["label"]))
            return cls(number, inputs, shard, hashes=ImageHashes(arrays["content"], arrays["pixels"]), **columns)


def build_shard(task: ShardTask) -> BuiltShard:
    """Read a task's images, write its tar, and read the tar's headers back for the index.

    Damaged images are left out and listed. The result is saved beside the tar. A shard with a saved result for the same
    inputs, and whose tar is still what that says, is not written again.

    Raises:
        DataError: the tar on the disk does not hold what was written.
        OSError: the disk is full or the folder cannot be written.
    """
    return _finished(task) or _build(task)


def _finished(task: ShardTask) -> BuiltShard | None:
    try:
        built = BuiltShard.load(task.completion, task.number)
        if built.inputs != task.inputs:
            return None
        with (task.root / task.name).open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == built.shard.sha256
    except _UNREADABLE:
        return None
    return built if intact else None


def _build(task: ShardTask) -> BuiltShard:
    hashes: list[ImageHashes] = []
    short_sides: list[int] = []
    written: list[tuple[str, int, str]] = []
    labels: list[int] = []
    damaged: list[tuple[str, str]] = []

    def samples() -> Iterator[tuple[str, EncodedImage, int]]:
        # One image after the other: as many shards are built at once as there are cores, and the memory is one.
        for record, label in zip(task.records, task.labels, strict=True):
            try:
                image, hashed = _read(record, task)
            except DataError as error:
                damaged.append((printable(record.origin), printable(str(error)).replace("\0", " ")))
                continue
            hashes.append(hashed)
            labels.append(label)
            short_sides.append(min(image.width, image.height))
            written.append((record.key, len(image.data), str(label)))
            yield record.key, image, label

    path = task.root / task.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh:
        write_shard(fresh, samples())
        rows = read_members(fresh, _CLS)
        if [(row.key, row.size, row.label) for row in rows] != written:
            raise DataError(f"{path}: does not hold what was written to it; the disk is not to be trusted")
        with fresh.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        built = BuiltShard(
            task.number,
            task.inputs,
            Shard(task.name, fresh.stat().st_size, digest, len(rows)),
            offset=np.array([row.offset for row in rows], dtype=np.int64),
            size=np.array([row.size for row in rows], dtype=np.int64),
            label=np.array(labels, dtype=np.int32),
            keys=np.array([row.key.encode() for row in rows], dtype=np.bytes_),
            short_side=np.array(short_sides, dtype=np.int32),
            hashes=ImageHashes.join([ImageHashes.of([], task.pixels), *hashes]),
            damaged=np.array(damaged, dtype=np.str_).reshape(-1, 2),
        )
    built.save(task.completion)
    return built


def _read(record: Record, task: ShardTask) -> tuple[EncodedImage, ImageHashes]:
    try:
        image = record.read()
    except TooLargeError as error:
        if task.reencoding is None or record.path is None:
            raise TooLargeError(f"{error} (--max-side makes it smaller)") from error
        image = task.reencoding.apply_large(record.path)
    hashed = ImageHashes.of([image], task.pixels)
    return (image if task.reencoding is None else task.reencoding.apply(image)), hashed


def join_shards(built: Sequence[BuiltShard]) -> Split:
    """The split that these shards make in this order; one of which every image was damaged is left out."""
    built = [one for one in built if one.shard.samples]
    counts = [one.shard.samples for one in built]
    return Split(
        shards=tuple(one.shard for one in built),
        shard=np.repeat(np.arange(len(built)), counts).astype(np.int32),
        offset=np.concatenate([one.offset for one in built]),
        size=np.concatenate([one.size for one in built]),
        label=np.concatenate([one.label for one in built]),
        keys=np.concatenate([one.keys for one in built]),
    )
