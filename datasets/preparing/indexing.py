"""Indexing shards that exist already, whoever wrote them: they get a manifest, and stay as they are."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..decoding.images import short_side
from ..errors import DataError
from ..manifest import MANIFEST_FILE, TEST, TRAIN, VAL, Manifest, Shard, Split, require_safe_name
from .account import ACCOUNT_FILE, Account
from .duplicates import Duplicates, ImageHashes, find_duplicates
from .finding import find_shards
from .labels import read_labels
from .members import LabelMember, Row, ShardMembers, read_shard
from .names import printable
from .sources import require_fraction, require_known_classes
from .splitting import choose_validation
from .workfolder import Note

_MEASURED_IMAGES = 256
_CLS = LabelMember("cls")
_FILES_PER_SAMPLE = 2

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
    read = _Read(root, _CLS)
    read.all({split: of_split for split, of_split in paths.items() if of_split})
    splits, found, _ = read.splits(classes)
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
    note: Note | None = None,
    report: Callable[[list[Duplicates]], None] | None = None,
    accounted: Callable[[Account], None] | None = None,
) -> Manifest:
    """Make a dataset of the WebDataset shards in `folder`, in place: writes manifest, index and account beside them.

    Args:
        splits: glob pattern below `folder` of each split's shards, such as {"train": "*-train-*.tar", ...}; default: by
            the names of files and folders (see `find_shards`).
        label: which member of a sample tells its class: "cls" (an index), another extension or "json:FIELD" (a class
            name, or an index into `classes`).
        classes: class names in the order of the indices; default: see `read_labels`.
        val_fraction, seed: without shards of "val", so large a part of each class becomes "val", sample by sample: the
            index lists some samples of a shard in one split, the others in the other. Equal images stay together.
        progress: called after every shard.
        note: told in a line how the labels were understood, and what was not read.
        report: called with the images that are there more than once, by their bytes.
        accounted: called with the account of all members, which is also written beside the manifest.

    Raises:
        DataError: no shards, there is a manifest already, names that leave a doubt which shards are whose, or a shard
            is not as `members.read_shard` wants it.
    """
    folder = Path(folder).absolute()
    require_fraction(val_fraction)
    if (folder / MANIFEST_FILE).exists():
        raise DataError(f"{folder}: has a {MANIFEST_FILE} already; remove it to index the shards again")
    read = _Read(folder, LabelMember.parse(label))
    read.all(find_shards(folder, splits, note), progress)
    indexed, names, meaning = read.splits(classes)
    if note is not None:
        note(meaning)
    size = _measure(folder, indexed[TRAIN])
    hashes = {split: ImageHashes.join(parts) for split, parts in read.hashes.items()}
    if VAL not in indexed:
        train = indexed[TRAIN]
        chosen = choose_validation(train.label.astype(np.int64), hashes[TRAIN].groups(), val_fraction, seed)
        if not chosen.any():
            raise DataError(f"{folder}: no class has the two images that a validation split takes; add images")
        indexed |= {TRAIN: _part(train, ~chosen), VAL: _part(train, chosen)}
        hashes |= {TRAIN: hashes[TRAIN].take(~chosen), VAL: hashes[TRAIN].take(chosen)}
    if report is not None:
        keys = {split: [of.key(row) for row in range(len(of))] for split, of in indexed.items()}
        report(find_duplicates(keys, {split: of.label for split, of in indexed.items()}, hashes))
    manifest = Manifest(folder, name or folder.name, names, size, mirror_safe, indexed)
    account = Account(
        samples={split: len(of_split) for split, of_split in indexed.items()},
        ignored={kind: tuple(members) for kind, members in sorted(read.ignored.items())},
        files_per_sample=_FILES_PER_SAMPLE,
        unit="members",
    )
    try:
        account.save(folder / ACCOUNT_FILE)
        manifest.save()
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    if accounted is not None:
        accounted(account)
    return Manifest.load(folder)


@dataclass
class _Read:
    """What has been read of the shards so far, by split in the order of the samples; and ignored members by kind."""

    root: Path
    label: LabelMember
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    hashes: dict[str, list[ImageHashes]] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)

    def all(self, paths: Mapping[str, Sequence[Path]], progress: ShardProgress | None = None) -> None:
        """Read all shards, each of them once."""
        total, done = sum(map(len, paths.values())), 0
        for split, of_split in paths.items():
            for path in of_split:
                self._add(split, path)
                done += 1
                if progress is not None:
                    progress(done, total)

    def _add(self, split: str, path: Path) -> None:
        try:
            found = read_shard(path, self.label)
            shard = self._shard(path, found)
            hashes = ImageHashes.of_bytes(_images(path, found.rows))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.shards.setdefault(split, []).append(shard)
        self.rows.setdefault(split, []).extend(found.rows)
        self.hashes.setdefault(split, []).append(hashes)
        for kind, names in found.ignored.items():
            self.ignored.setdefault(kind, []).extend(f"{shard.name}: {name}" for name in names)

    def _shard(self, path: Path, found: ShardMembers) -> Shard:
        if not found.rows:
            raise DataError(f"{path}: no samples (KEY.jpg/.jpeg/.png/.webp with KEY.{self.label.extension})")
        name = path.relative_to(self.root).as_posix()
        try:
            require_safe_name(name)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except ValueError as error:
            raise DataError(f"{path}: {error}; rename it") from error
        return Shard(name, path.stat().st_size, digest, len(found.rows))

    def splits(self, given: Sequence[str] | None) -> tuple[dict[str, Split], tuple[str, ...], str]:
        """All splits, the class names, and in a line what the labels mean.

        Raises:
            DataError: a label has no class, or, where classes are the names that occur, "train" lacks one.
        """
        by_split = {split: {row.label for row in rows} for split, rows in self.rows.items()}
        classes, numbers, meaning = read_labels(
            (label for labels in by_split.values() for label in labels), self.label, given
        )
        for split, labels in by_split.items():
            if unknown := labels - numbers.keys():
                row = next(row for row in self.rows[split] if row.label in unknown)
                problem = f"has label {row.label}, but there are {len(classes):,} classes without it"
                hint = "write the shard again or name the classes"
                raise DataError(f"{self.root}: sample {printable(row.key)} of {split} {problem}; {hint}")
            if given is None and self.label.extension != "cls":
                names = [{classes[numbers[label]] for label in of} for of in (labels, by_split[TRAIN])]
                require_known_classes(self.root, split, *names)
        return {split: self._split(split, numbers) for split in self.rows}, classes, meaning

    def _split(self, split: str, numbers: Mapping[str, int]) -> Split:
        shards, rows = self.shards[split], self.rows[split]
        return Split(
            shards=tuple(shards),
            shard=np.repeat(np.arange(len(shards)), [shard.samples for shard in shards]).astype(np.int32),
            offset=np.array([row.offset for row in rows], dtype=np.int64),
            size=np.array([row.size for row in rows], dtype=np.int64),
            label=np.array([numbers[row.label] for row in rows], dtype=np.int32),
            keys=np.array([row.key.encode(errors="surrogateescape") for row in rows], dtype=np.bytes_),
        )


def _images(path: Path, rows: Sequence[Row]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for row in rows:
            file.seek(row.offset)
            yield file.read(row.size)


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
