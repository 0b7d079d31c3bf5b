"""Shards: plain WebDataset tars of `KEY.jpg` + `KEY.cls`, written deterministically and indexed from their headers."""

import hashlib
import tarfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError
from .images import MAX_IMAGE_BYTES, SHARD_EXTENSIONS, EncodedImage, short_side
from .manifest import Manifest, Shard, Split
from .sources import TEST, TRAIN, VAL

SAMPLES_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20
_MAX_LABEL_BYTES = 16
_MEASURED_IMAGES = 256


def write_shards(
    folder: Path,
    samples: Iterable[tuple[str, EncodedImage, int]],
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
) -> list[Path]:
    """Write (key, image, label) in the given order as `folder/000000.tar`, ...; the same input gives the same bytes.

    A shard is closed once it has `samples_per_shard` samples or at least `bytes_per_shard` bytes of members.

    Raises:
        DataError: a limit is not positive.
        OSError: the disk is full or the folder cannot be written.
    """
    require_limits(samples_per_shard, bytes_per_shard)
    from webdataset import ShardWriter  # imports torch, which the command line does not need

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    handles: list[BufferedWriter] = []

    def open_shard(name: str) -> BufferedWriter:
        # Not ShardWriter's own opener: that one reads "%", ":" and WDS_SECURE into a plain path.
        written.append(folder / name)
        handles.append(written[-1].open("wb"))
        return handles[-1]

    try:
        with closing(
            ShardWriter(
                "%06d.tar",
                maxcount=samples_per_shard,
                maxsize=bytes_per_shard,
                opener=open_shard,
                post=lambda _: handles[-1].close(),
                verbose=0,
                encoder=False,
                # Who wrote the shard and when must not change its sha256.
                mtime=0,
                user="",
                group="",
            )
        ) as writer:
            for key, image, label in samples:
                writer.write({"__key__": key, image.extension: image.data, "cls": str(label).encode()})
    finally:
        for handle in handles:
            handle.close()
    return written


def require_limits(samples_per_shard: int, bytes_per_shard: int) -> None:
    """Raise DataError unless both limits of a shard are positive."""
    if samples_per_shard < 1 or bytes_per_shard < 1:
        raise DataError("samples and bytes per shard must be at least 1")


def index_shards(
    root: Path,
    *,
    name: str | None = None,
    classes: tuple[str, ...] | None = None,
    image_size: int | None = None,
    mirror_safe: bool = True,
) -> Manifest:
    """Build the manifest of `root/{train,val,test}/*.tar` by reading each tar once; nothing is written (see
    `Manifest.save`).

    Args:
        classes: class names; default: the labels themselves, "0", "1", ...
        image_size: median shorter side in pixels; default: measured on up to 256 images spread over the first split.

    Raises:
        DataError: no shards, a damaged tar, or samples that are not exactly one image and one label; the message names
            it.
    """
    root = Path(root).absolute()
    paths = {split: sorted((root / split).glob("*.tar")) for split in (TRAIN, VAL, TEST)}
    splits = {split: _index_split(root, of_split) for split, of_split in paths.items() if of_split}
    if TRAIN not in splits:
        raise DataError(f"{root}: no shards; expected {root}/{TRAIN}/*.tar")
    if classes is None:
        classes = tuple(str(label) for label in range(1 + max(int(split.label.max()) for split in splits.values())))
    for split_name, split in splits.items():
        if (high := int(split.label.max())) >= len(classes):
            where = f"{root}: sample {split.key(int(split.label.argmax()))} of {split_name}"
            raise DataError(f"{where} has label {high}, but there are {len(classes)} classes")
    size = image_size or _measure(root, splits[TRAIN])
    return Manifest(root, name or root.name, classes, size, mirror_safe, splits)


class _Row(NamedTuple):
    shard: int
    offset: int
    size: int
    label: int
    key: str


@dataclass
class _Members:
    """What one shard has shown of a sample so far."""

    images: list[tuple[int, int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def _index_split(root: Path, paths: list[Path]) -> Split:
    shards, rows = [], []
    for number, path in enumerate(paths):
        found = _read_headers(path, number)
        if not found:
            raise DataError(f"{path}: no samples (KEY.jpg/.jpeg/.png/.webp with KEY.cls)")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shards.append(Shard(path.relative_to(root).as_posix(), path.stat().st_size, digest, len(found)))
        rows += found
    shard, offset, size, label, keys = zip(*rows, strict=True)
    return Split(
        shards=tuple(shards),
        shard=np.array(shard, dtype=np.int32),
        offset=np.array(offset, dtype=np.int64),
        size=np.array(size, dtype=np.int64),
        label=np.array(label, dtype=np.int32),
        keys=np.array([key.encode(errors="surrogateescape") for key in keys], dtype=np.bytes_),
    )


def _read_headers(path: Path, number: int) -> list[_Row]:
    """The samples of one tar, in the order of their images. Members of other kinds are passed over unread."""
    samples: dict[str, _Members] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header of a large shard
                folder, _, base = member.name.rpartition("/")
                stem, dot, extension = base.partition(
                    "."
                )  # webdataset's rule: the key ends at the first dot of the name
                extension = extension.lower()
                if not dot or not stem or not member.isreg() or extension not in SHARD_EXTENSIONS | {"cls"}:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                of_key = samples.setdefault(key, _Members())
                if extension == "cls":
                    of_key.labels.append(_label(tar, member, f"{path}: sample {key}"))
                elif member.size > MAX_IMAGE_BYTES or member.issparse():
                    raise DataError(f"{path}: sample {key}: {member.size:,} bytes, {MAX_IMAGE_BYTES:,} are allowed")
                else:
                    of_key.images.append((member.offset_data, member.size))
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: damaged or truncated tar ({error}); copy or write it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    rows = [_row(path, number, key, members) for key, members in samples.items()]
    return sorted(rows, key=lambda row: row.offset)


def _row(path: Path, number: int, key: str, members: _Members) -> _Row:
    if len(members.images) != 1 or len(members.labels) != 1:
        counts = f"{len(members.images)} images and {len(members.labels)} labels"
        raise DataError(f"{path}: sample {key} has {counts} instead of one of each; write the shard again")
    return _Row(number, *members.images[0], members.labels[0], key)


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> int:
    if member.size <= _MAX_LABEL_BYTES and (file := tar.extractfile(member)) is not None:
        text = file.read().strip()
        if text.isdigit() and int(text) < 2**31:
            return int(text)
    raise DataError(f"{where}: its .cls is not a class number; write the shard again")


def _measure(root: Path, split: Split) -> int:
    sides = []
    for sample in np.unique(np.linspace(0, len(split) - 1, _MEASURED_IMAGES).astype(np.int64)):
        path = root / split.shards[split.shard[sample]].name
        try:
            with path.open("rb") as file:
                file.seek(int(split.offset[sample]))
                sides.append(short_side(file.read(int(split.size[sample]))))
        except DataError as error:
            raise DataError(f"{path}: sample {split.key(int(sample))}: {error}") from error
    return int(np.median(sides))
