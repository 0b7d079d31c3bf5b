"""The manifest of a dataset: its classes, its shards, and where in them the image of every sample lies.

On disk or at a remote address: `manifest.json` for people and tools, `index.npz` (no pickle) for the arrays, beside
the tars. The shards stay plain WebDataset; the manifest is what makes an exact order over them possible.
"""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .decoding.images import MAX_IMAGE_BYTES
from .errors import DataError
from .files import replacing, write_atomically
from .remote import join, read_object

TRAIN, VAL, TEST = "train", "val", "test"
"""The names of the splits that a dataset may have."""

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.npz"
SHUFFLE_BYTES = 4 * 2**30
"""Bytes of shards that are shuffled together unless something else is asked for: 35,000 photographs of ImageNet."""

_COLUMNS = {"shard": "<i4", "offset": "<i8", "size": "<i8", "label": "<i4", "keys": "S"}
_MAX_MANIFEST_BYTES = 64 * 2**20
# The numbers of a sample and the longest key that `preparing` makes; and what a file has besides.
_MAX_SAMPLE_BYTES, _FILE_BYTES = 24 + 1024, 2**16
_MAX_INDEX_BYTES = 4 * 2**30
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Besides what leaves the folder, what a URL or plain webdataset would read into a name: `pipe:`, queries, patterns.
_UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f\\:?#%*]")

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Shard:
    """A tar file: path relative to the manifest's folder (posix), size in bytes, sha256 in hex, number of samples."""

    name: str
    bytes: int
    sha256: str
    samples: int


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, shard after shard in the order of their images in the tar; sample id = row number.

    Attributes:
        shards: the tar files.
        shard: int32 (N,), number of the sample's shard.
        offset, size: int64 (N,), where the image's bytes lie in the shard.
        label: int32 (N,), index into the manifest's classes.
        keys: bytes (N,), UTF-8 WebDataset keys.
    """

    shards: tuple[Shard, ...]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int32]
    keys: NDArray[np.bytes_]

    def __post_init__(self) -> None:
        for column in _COLUMNS:
            getattr(self, column).setflags(write=False)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """Number of samples of each shard."""
        return tuple(shard.samples for shard in self.shards)

    def key(self, sample_id: int) -> str:
        """The WebDataset key of a sample, as text that can be printed."""
        text = bytes(self.keys[sample_id]).decode(errors="replace")
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class Remote(NamedTuple):
    """Where a remote dataset lies, and how many bytes of its shards this node may keep."""

    address: str
    cache_limit: int


@dataclass(frozen=True, eq=False)
class Manifest:
    """An immutable description of a prepared dataset.

    Attributes:
        root: folder that holds the shards, or, for remote ones, their copies; where the data lies is no part of the
            digest.
        name: for people.
        classes: class names; a label is an index into them.
        image_size: median shorter side of the images, in pixels.
        mirror_safe: whether a mirrored image still shows its class (a mirrored digit does not).
        splits: "train", "val", possibly "test".
        remote: where remote shards are fetched from; None: they lie in `root`.
    """

    root: Path
    name: str
    classes: tuple[str, ...]
    image_size: int
    mirror_safe: bool
    splits: Mapping[str, Split] = field(repr=False)
    remote: Remote | None = None

    @property
    def location(self) -> str:
        """The folder or address of the dataset, as `open_dataset` takes it."""
        return self.remote.address if self.remote else str(self.root)

    @property
    def default_shuffle_block(self) -> int:
        """Shards that training shuffles together unless told otherwise: all, or as many as never exceed 4 GiB.

        A rank needs a whole block at hand, and a remote dataset may be larger than any node's disk. Neither the data's
        place nor a node's cache has a say in it, since the order of samples depends on it.
        """
        largest_first = sorted((shard.bytes for shard in self.split(TRAIN).shards), reverse=True)
        return max(1, int(np.searchsorted(np.cumsum(largest_first), SHUFFLE_BYTES, side="right")))

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of all that changes what is trained: everything but the name and the place of the data."""
        return self._digest(FORMAT_VERSION)

    def _digest(self, version: int) -> str:
        # The first format's digest left these out.
        more = {"image_size": self.image_size, "mirror_safe": self.mirror_safe} if version > 1 else {}
        defining = {
            "format": version,
            **more,
            "classes": list(self.classes),
            "splits": {name: [asdict(shard) for shard in split.shards] for name, split in sorted(self.splits.items())},
            "index": _index_sha256(self._arrays()),
        }
        return hashlib.sha256(json.dumps(defining, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def split(self, name: str) -> Split:
        """A split by name; DataError tells which there are."""
        if name not in self.splits:
            raise DataError(f"{self.location}: no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def save(self) -> None:
        """Write manifest.json and index.npz into `root`."""
        arrays = self._arrays()
        document = {
            "format": FORMAT_VERSION,
            "name": self.name,
            "digest": self.digest,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "mirror_safe": self.mirror_safe,
            "splits": {name: {"shards": [asdict(s) for s in split.shards]} for name, split in self.splits.items()},
            "index": {"file": INDEX_FILE, "sha256": _index_sha256(arrays)},
        }
        with replacing(self.root / INDEX_FILE) as fresh, fresh.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        write_atomically(self.root / MANIFEST_FILE, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read and check the manifest of `folder`; the shards themselves are not opened.

        Raises:
            DataError: there is none, it is of another format version, or it is damaged.
        """
        folder = Path(folder).absolute()  # worker processes have another working directory
        if not (folder / MANIFEST_FILE).is_file():
            raise DataError(f"{folder}: no {MANIFEST_FILE}; make one with: effnet-cluster data prepare SOURCE {folder}")

        def opened(name: str, limit: int) -> BinaryIO:
            file = (folder / name).open("rb")
            if (size := os.fstat(file.fileno()).st_size) > limit:
                file.close()
                raise DataError(f"{folder / name}: {size:,} bytes, more than the {limit:,} allowed")
            return file

        return cls._read(opened, folder, None)

    @classmethod
    def load_remote(cls, address: str, cache_folder: Path, cache_limit: int) -> "Manifest":
        """Read and check the manifest at `address`; no shard is fetched yet.

        Args:
            cache_folder: where the shards will be kept on this node; other datasets may share it.
            cache_limit: bytes that this folder may hold.

        Raises:
            DataError: as for `load`, or the address cannot be read.
        """

        def download(name: str, limit: int) -> BinaryIO:
            # To the disk: the arrays are then the only copy in memory.
            with ExitStack() as undo:
                file = undo.enter_context(tempfile.TemporaryFile())
                read_object(join(address, name), limit, file)
                undo.pop_all()
            return file

        return cls._read(download, cache_folder, Remote(address, cache_limit))

    @classmethod
    def _read(cls, opened: Callable[[str, int], BinaryIO], root: Path, remote: Remote | None) -> "Manifest":
        place = remote.address if remote else str(root)
        path = f"{place}/{MANIFEST_FILE}"
        try:
            with opened(MANIFEST_FILE, _MAX_MANIFEST_BYTES) as file:
                document = json.loads(file.read().decode())
            version = document["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, "unreadable") from error
        if version not in range(1, FORMAT_VERSION + 1):
            known = f"this program reads 1 to {FORMAT_VERSION}"
            raise DataError(f"{path}: format {str(version)[:40]}, {known}; prepare the dataset again")
        try:
            shards = {str(name): _shards(entry["shards"]) for name, entry in document["splits"].items()}
            name, recorded = _typed(document["name"], str), _typed(document["digest"], str)
            classes = tuple(_typed(name, str) for name in document["classes"])
            size, mirror = _counted(document["image_size"], 2**20), _typed(document["mirror_safe"], bool)
        except KeyError as error:
            raise _damaged(path, f"no entry {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, str(error)) from error
        try:
            with opened(INDEX_FILE, _index_limit(shards)) as file:
                splits = _load_splits(file, shards)
        except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise _damaged(f"{place}/{INDEX_FILE}", "missing or unreadable") from error
        manifest = cls(root, name, classes, size, mirror, splits, remote)
        if problem := manifest._inconsistency():
            raise _damaged(path, problem)
        if manifest._digest(version) != recorded:
            raise _damaged(path, f"it and {INDEX_FILE} do not match their digest")
        return manifest

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {f"{name}.{c}": getattr(split, c) for name, split in self.splits.items() for c in _COLUMNS}

    def _inconsistency(self) -> str | None:
        """What contradicts itself, so that the loader may trust every row."""
        for name, split in self.splits.items():
            counts = np.array(split.shard_samples, dtype=np.int64)
            if counts.sum() != len(split) or not np.array_equal(split.shard, np.repeat(np.arange(len(counts)), counts)):
                return f"sample counts of {name} differ between it and {INDEX_FILE}"
            if (split.size < 0).any() or (split.size > MAX_IMAGE_BYTES).any():
                return f"a sample of {name} has less than 0 or more than the {MAX_IMAGE_BYTES:,} bytes allowed"
            ends = np.array([shard.bytes for shard in split.shards], dtype=np.int64)[split.shard]
            if (split.offset < 0).any() or (split.offset > ends - split.size).any():  # a sum might wrap around
                return f"a sample of {name} lies outside its shard"
            if (np.diff(split.offset)[np.diff(split.shard) == 0] <= 0).any():
                return f"the samples of {name} are not in the order of their shards"
            if (split.label < 0).any() or (split.label >= len(self.classes)).any():
                return f"a label of {name} has no class"
        return None


def require_safe_name(name: str) -> None:
    """Raise ValueError unless `name` is a plain relative posix path: safe below a folder, in a URL and in a log."""
    parts = name.split("/")
    if _UNSAFE_NAME.search(name) or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"the shard name {name!r} lies outside the folder or is no plain path")


def _shards(entries: list[dict[str, Any]]) -> tuple[Shard, ...]:
    shards = []
    for entry in entries:
        shard = Shard(**entry)
        require_safe_name(_typed(shard.name, str))
        if _SHA256.fullmatch(_typed(shard.sha256, str)) is None:
            raise ValueError(f"the sha256 of {shard.name} is none")
        _counted(shard.bytes, 2**48)
        _counted(shard.samples, 2**31)
        shards.append(shard)
    return tuple(shards)


def _index_limit(shards: Mapping[str, Sequence[Shard]]) -> int:
    """Bytes that the index of these shards can have."""
    samples = sum(shard.samples for of_split in shards.values() for shard in of_split)
    return min(samples * _MAX_SAMPLE_BYTES + _FILE_BYTES, _MAX_INDEX_BYTES)


def _typed(value: Any, kind: type[Kind]) -> Kind:
    if type(value) is not kind:  # not isinstance: True is an int
        raise TypeError(f"{str(value)[:40]!r} where a {kind.__name__} belongs")
    return value


def _counted(value: Any, limit: int) -> int:
    if not 0 <= _typed(value, int) < limit:
        raise ValueError(f"the number {value} is out of range")
    return int(value)


def _load_splits(file: BinaryIO, shards: Mapping[str, tuple[Shard, ...]]) -> dict[str, Split]:
    with np.load(file, allow_pickle=False) as arrays:
        # Stored as they are, so no small file can unpack to more than the memory holds.
        if any(info.compress_type != zipfile.ZIP_STORED for info in arrays.zip.infolist()):
            raise ValueError("compressed")
        return {name: _split(arrays, name, of_split) for name, of_split in shards.items()}


def _split(arrays: Any, name: str, shards: tuple[Shard, ...]) -> Split:
    columns = {}
    for column, kind in _COLUMNS.items():
        array = arrays[f"{name}.{column}"]
        if array.ndim != 1 or (array.dtype.kind != "S" if kind == "S" else array.dtype != np.dtype(kind)):
            raise ValueError(f"{name}.{column} is {array.dtype}{array.shape}")
        columns[column] = array
    if len({len(array) for array in columns.values()}) != 1:
        raise ValueError(f"the columns of {name} differ in length")
    return Split(shards=shards, **columns)


def _index_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash of names, types, lengths and values: independent of how the arrays are packed into a file."""
    hasher = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hasher.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        hasher.update(np.ascontiguousarray(array).view(np.uint8).data)
    return hasher.hexdigest()


def _damaged(path: str, what: str) -> DataError:
    return DataError(f"{path}: damaged ({what}); copy or prepare the dataset again")
