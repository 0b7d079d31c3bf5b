"""Indexing shards that exist already, whoever wrote them: they get a manifest, and stay as they are."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..decoding.images import short_side
from ..errors import DataError
from ..manifest import MANIFEST_FILE, TEST, TRAIN, VAL, Manifest, Shard, Split, require_safe_name
from ..philox import Domain, permutation
from .members import LabelMember, Row, is_class_number, read_members
from .sources import require_fraction

_MEASURED_IMAGES = 256
# Where numbers are all there is to go by: one wrong label must not make a billion classes.
_MAX_CLASSES = 1_000_000
_CLS = LabelMember("cls")

ShardProgress = Callable[[int, int], None]
"""Called with (shards that were read, shards in all)."""


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
    if not paths[TRAIN]:
        raise DataError(f"{root}: no shards; expected {root}/{TRAIN}/*.tar")
    splits, found = _index(root, {split: of_split for split, of_split in paths.items() if of_split}, _CLS, classes)
    size = image_size or _measure(root, splits[TRAIN])
    return Manifest(root, name or root.name, found, size, mirror_safe, splits)


def index_existing(
    folder: Path,
    *,
    splits: Mapping[str, str] | None = None,
    label: str = "cls",
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
    mirror_safe: bool = True,
    progress: ShardProgress | None = None,
) -> Manifest:
    """Make a dataset of the WebDataset shards in `folder`, in place: writes manifest and index beside them, no more.

    Args:
        splits: glob pattern below `folder` of each split's shards, such as {"train": "*-train-*.tar", ...}; default:
            train/*.tar, val/*.tar and test/*.tar, or, without a folder train, *.tar as "train".
        label: which member of a sample tells its class: "cls" (a number), another extension (a number or a class name),
            or "json:FIELD" (a number or a class name in KEY.json).
        classes: class names; default: the labels' numbers or, where some label is a name, the labels, sorted.
        val_fraction, seed: without a pattern for "val", so large a part of each class becomes "val", sample by sample:
            the index lists some samples of a shard in one split, the others in the other.
        progress: called after every shard.

    Raises:
        DataError: no shards, there is a manifest already, or a shard is not as `members.read_members` wants it.
    """
    folder = Path(folder).absolute()
    require_fraction(val_fraction)
    if (folder / MANIFEST_FILE).exists():
        raise DataError(f"{folder}: has a {MANIFEST_FILE} already; remove it to index the shards again")
    paths = _matching(folder, splits)
    member = LabelMember.parse(label)
    indexed, found = _index(folder, paths, member, None if classes is None else tuple(classes), progress)
    size = _measure(folder, indexed[TRAIN])
    if VAL not in indexed:
        train, val = _divided(indexed[TRAIN], val_fraction, seed)
        if not len(val):
            raise DataError(f"{folder}: no class has the two images that a validation split takes; add images")
        indexed |= {TRAIN: train, VAL: val}
    manifest = Manifest(folder, name or folder.name, found, size, mirror_safe, indexed)
    try:
        manifest.save()
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return Manifest.load(folder)


def _matching(folder: Path, splits: Mapping[str, str] | None) -> dict[str, list[Path]]:
    if splits is None:
        inside = {split: f"{split}/*.tar" for split in (TRAIN, VAL, TEST) if any((folder / split).glob("*.tar"))}
        splits = inside if TRAIN in inside else {TRAIN: "*.tar"}
    if TRAIN not in splits:
        raise DataError(f"{folder}: no pattern for the split {TRAIN!r}")
    found: dict[str, list[Path]] = {}
    for split, pattern in splits.items():
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise DataError(f"pattern {pattern!r} of {split}: must stay below {folder}")
        found[split] = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found[split]:
            raise DataError(f"{folder}: no shards match {pattern!r}, the pattern of {split}")
    taken: dict[Path, str] = {}
    for split, paths in found.items():
        for path in paths:
            if taken.setdefault(path, split) != split:
                raise DataError(f"{path}: matches the patterns of both {taken[path]} and {split}")
    return found


def _index(
    root: Path,
    paths: Mapping[str, Sequence[Path]],
    label: LabelMember,
    classes: tuple[str, ...] | None,
    progress: ShardProgress | None = None,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """All splits, and the class names."""
    total = sum(len(of_split) for of_split in paths.values())
    shards: dict[str, list[Shard]] = {split: [] for split in paths}
    rows: dict[str, list[Row]] = {split: [] for split in paths}
    for split, of_split in paths.items():
        for path in of_split:
            found = read_members(path, label)
            shards[split].append(_shard(root, path, found, label))
            rows[split] += found
            if progress is not None:
                progress(sum(map(len, shards.values())), total)
    numbers, classes = _numbered(root, rows, classes)
    return {split: _split(shards[split], rows[split], numbers) for split in paths}, classes


def _shard(root: Path, path: Path, rows: Sequence[Row], label: LabelMember) -> Shard:
    if not rows:
        raise DataError(f"{path}: no samples (KEY.jpg/.jpeg/.png/.webp with KEY.{label.extension})")
    name = path.relative_to(root).as_posix()
    try:
        require_safe_name(name)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except ValueError as error:
        raise DataError(f"{path}: {error}; rename it") from error
    return Shard(name, path.stat().st_size, digest, len(rows))


def _numbered(
    root: Path, rows: Mapping[str, Sequence[Row]], classes: tuple[str, ...] | None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The class number of every label that occurs, and the class names."""
    labels = {row.label for of_split in rows.values() for row in of_split}
    if classes is None:
        if all(map(is_class_number, labels)):
            classes = tuple(str(number) for number in range(min(1 + max(map(int, labels)), _MAX_CLASSES)))
        else:
            classes = tuple(sorted(labels))
    known = {name: number for number, name in enumerate(classes)}
    numbers = {}
    for label in labels:
        number = known[label] if label in known else int(label) if is_class_number(label) else len(classes)
        if number >= len(classes):
            split, row = next((s, row) for s, of_split in rows.items() for row in of_split if row.label == label)
            problem = f"has label {label}, but there are {len(classes):,} classes without it"
            raise DataError(f"{root}: sample {row.key} of {split} {problem}; write the shard again or name the classes")
        numbers[label] = number
    return numbers, classes


def _split(shards: Sequence[Shard], rows: Sequence[Row], numbers: Mapping[str, int]) -> Split:
    counts = [shard.samples for shard in shards]
    return Split(
        shards=tuple(shards),
        shard=np.repeat(np.arange(len(shards)), counts).astype(np.int32),
        offset=np.array([row.offset for row in rows], dtype=np.int64),
        size=np.array([row.size for row in rows], dtype=np.int64),
        label=np.array([numbers[row.label] for row in rows], dtype=np.int32),
        keys=np.array([row.key.encode(errors="surrogateescape") for row in rows], dtype=np.bytes_),
    )


def _divided(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(train, val): of each class `fraction` goes to val, rounded, at least one to either side where it has two."""
    chosen = np.zeros(len(split), dtype=np.bool_)
    for number in np.unique(split.label).tolist():
        of_class = np.flatnonzero(split.label == number)
        count = min(max(round(fraction * len(of_class)), 1), len(of_class) - 1)
        order = permutation(len(of_class), Domain.SPLIT, seed, minor=number)
        chosen[of_class[order[:count]]] = True
    return _part(split, ~chosen), _part(split, chosen)


def _part(split: Split, chosen: NDArray[np.bool_]) -> Split:
    counts = np.bincount(split.shard[chosen], minlength=len(split.shards)).tolist()
    shards = [replace(shard, samples=count) for shard, count in zip(split.shards, counts, strict=True) if count]
    return Split(
        shards=tuple(shards),
        shard=np.repeat(np.arange(len(shards)), [shard.samples for shard in shards]).astype(np.int32),
        offset=split.offset[chosen],
        size=split.size[chosen],
        label=split.label[chosen],
        keys=split.keys[chosen],
    )


def _measure(root: Path, split: Split) -> int:
    """Median shorter side in pixels of up to 256 images spread over the split."""
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
