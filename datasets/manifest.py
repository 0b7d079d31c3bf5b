"""What a folder of shards holds: classes, shards, and for every sample where its image lies, as arrays.

On disk: `manifest.json` for people and tools, `index.npz` (no pickle) for the arrays, beside `train/*.tar` and
`val/*.tar`. The shards stay plain WebDataset; the manifest is what makes an exact order over them possible.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
INDEX_FILE = "index.npz"
_COLUMNS = {"shard": "<i4", "offset": "<i8", "size": "<i8", "label": "<i4", "keys": "S"}


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
        """The WebDataset key of a sample."""
        return bytes(self.keys[sample_id]).decode(errors="replace")


@dataclass(frozen=True, eq=False)
class Manifest:
    """An immutable description of a prepared dataset.

    Attributes:
        root: folder that holds the shards; where the data lies is no part of the digest.
        name: for people.
        classes: class names; a label is an index into them.
        image_size: median shorter side of the images, in pixels.
        mirror_safe: whether a mirrored image still shows its class (a mirrored digit does not).
        splits: "train", "val", possibly "test".
    """

    root: Path
    name: str
    classes: tuple[str, ...]
    image_size: int
    mirror_safe: bool
    splits: Mapping[str, Split] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of what training can see: classes, shard contents and the index, not name, place or settings."""
        defining = {
            "format": FORMAT_VERSION,
            "classes": list(self.classes),
            "splits": {name: [asdict(shard) for shard in split.shards] for name, split in sorted(self.splits.items())},
            "index": _index_sha256(self._arrays()),
        }
        return hashlib.sha256(json.dumps(defining, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def split(self, name: str) -> Split:
        """A split by name; DataError tells which there are."""
        if name not in self.splits:
            raise DataError(f"{self.root}: no split {name!r}; it has {', '.join(self.splits)}")
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
        with (self.root / INDEX_FILE).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        (self.root / MANIFEST_FILE).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read and check the manifest of `folder`; the shards themselves are not opened.

        Raises:
            DataError: there is none, it is of another format version, or it is damaged.
        """
        folder = Path(folder).absolute()  # worker processes have another working directory
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise DataError(f"{folder}: no {MANIFEST_FILE}; make one with: effnet-cluster data prepare SOURCE {folder}")
        try:
            document = json.loads(path.read_text("utf-8"))
            version = document["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, "unreadable") from error
        if version != FORMAT_VERSION:
            raise DataError(f"{path}: format {version}, this program reads {FORMAT_VERSION}; prepare the dataset again")
        try:
            manifest = cls(
                root=folder,
                name=str(document["name"]),
                classes=tuple(str(name) for name in document["classes"]),
                image_size=int(document["image_size"]),
                mirror_safe=bool(document["mirror_safe"]),
                splits=_load_splits(folder, document["splits"]),
            )
            recorded: str = document["digest"]
            problem = manifest._inconsistency()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, "incomplete") from error
        if problem:
            raise _damaged(path, problem)
        if manifest.digest != recorded:
            raise _damaged(path, f"it and {INDEX_FILE} do not match their digest")
        return manifest

    def verify_shards(self) -> None:
        """Read every shard and compare its size and sha256 with the manifest's.

        Raises:
            DataError: a shard is missing or differs; the message names the first one.
        """
        for shard in (shard for split in self.splits.values() for shard in split.shards):
            path = self.root / shard.name
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
            if found != shard.sha256:
                raise DataError(
                    f"{path}: differs from the manifest (sha256 {found}); copy or prepare the dataset again"
                )

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {f"{name}.{c}": getattr(split, c) for name, split in self.splits.items() for c in _COLUMNS}

    def _inconsistency(self) -> str | None:
        """What contradicts itself, so that the loader may trust every row."""
        for name, split in self.splits.items():
            counts = np.array(split.shard_samples, dtype=np.int64)
            if counts.sum() != len(split) or not np.array_equal(split.shard, np.repeat(np.arange(len(counts)), counts)):
                return f"sample counts of {name} differ between it and {INDEX_FILE}"
            ends = np.array([shard.bytes for shard in split.shards], dtype=np.int64)[split.shard]
            if (split.offset < 0).any() or (split.size < 0).any() or (split.offset + split.size > ends).any():
                return f"a sample of {name} lies outside its shard"
            if (split.label < 0).any() or (split.label >= len(self.classes)).any():
                return f"a label of {name} has no class"
            if any(Path(shard.name).is_absolute() or ".." in Path(shard.name).parts for shard in split.shards):
                return f"a shard of {name} lies outside the folder"
        return None


def _load_splits(folder: Path, described: Mapping[str, Any]) -> dict[str, Split]:
    path = folder / INDEX_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _split(arrays, name, entry["shards"]) for name, entry in described.items()}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, "missing or unreadable") from error


def _split(arrays: Any, name: str, shards: list[dict[str, Any]]) -> Split:
    columns = {}
    for column, kind in _COLUMNS.items():
        array = arrays[f"{name}.{column}"]
        if array.ndim != 1 or (array.dtype.kind != "S" if kind == "S" else array.dtype != np.dtype(kind)):
            raise ValueError(f"{name}.{column} is {array.dtype}{array.shape}")
        columns[column] = array
    if len({len(array) for array in columns.values()}) != 1:
        raise ValueError(f"the columns of {name} differ in length")
    return Split(shards=tuple(Shard(**shard) for shard in shards), **columns)


def _index_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash of names, types, lengths and values: independent of how the arrays are packed into a file."""
    hasher = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        hasher.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        hasher.update(np.ascontiguousarray(array).view(np.uint8).data)
    return hasher.hexdigest()


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: damaged ({what}); copy or prepare the dataset again")
