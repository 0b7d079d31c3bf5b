"""Making all shards of a dataset: what each will hold is decided first, then any processes build them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..manifest import TRAIN, VAL, Manifest
from ..philox import Domain, permutation
from .build import BuiltShard, ShardTask, build_shard, join_shards
from .duplicates import Duplicates, ImageHashes, find_duplicates, hash_images, in_other_splits
from .equal_images import equal_files, equal_pixels
from .processes import Mapper
from .reencode import Reencoding
from .shards import shard_bounds
from .sources import Record, Source
from .workfolder import Note, WorkFolder

IN_OTHER_SPLITS = "in other splits too"
_DAMAGED_FILE = "damaged.txt"
_SHOWN_DAMAGED = 10
_INPUTS_VERSION = 2


class PreparingProgress(NamedTuple):
    """How far `prepare` is: images done, and images in all.

    `stage` is "comparing" (where equal images are looked for first), then "writing".
    """

    done: int
    total: int
    stage: str = "writing"


ProgressCallback = Callable[[PreparingProgress], None]
DuplicatesCallback = Callable[[list[Duplicates]], None]


@dataclass(frozen=True)
class Built:
    """What was built: the manifest, not saved yet; equal images; and by file why damaged ones were left out."""

    manifest: Manifest
    duplicates: list[Duplicates]
    damaged: dict[str, str]


@dataclass(frozen=True)
class ShardSettings:
    """What, besides the source, decides the bytes of the shards (and whether pixels are hashed)."""

    seed: int
    samples_per_shard: int
    bytes_per_shard: int
    reencoding: Reencoding | None
    pixels: bool


def build(
    source: Source,
    work: WorkFolder,
    settings: ShardSettings,
    mirror_safe: bool,
    mapper: Mapper,
    progress: ProgressCallback | None,
    note: Note,
    *,
    skip_damaged: bool,
) -> Built:
    """Build the shards of a source, those that an earlier run has left in `work` excepted, below `work.built`.

    Raises:
        DataError: images are damaged and not to be skipped, or have left a class none to train on, or a split none.
    """
    tasks = list(_tasks(source, work, settings))
    work.begin({task.name: task.inputs for task in tasks}, note)
    total, done = sum(len(task.records) for task in tasks), 0
    built: dict[int, BuiltShard] = {}
    with closing(mapper(build_shard, tasks)) as results:
        for one in results:
            built[one.number] = one
            done += len(one.label) + len(one.damaged)
            if progress is not None:
                progress(PreparingProgress(done, total))
    damaged = {str(file): str(why) for number in sorted(built) for file, why in built[number].damaged}
    if damaged and not skip_damaged:
        raise _damaged(source, damaged, total, work.root / _DAMAGED_FILE, note)
    in_order: dict[str, list[BuiltShard]] = {split: [] for split in source.splits}
    for task in tasks:
        in_order[task.name.partition("/")[0]].append(built[task.number])
        if not built[task.number].shard.samples:
            (work.built / task.name).unlink()
    _require_images(source, in_order)
    splits = {split: join_shards(shards) for split, shards in in_order.items()}
    sides = np.concatenate([one.short_side for one in built.values()])
    manifest = Manifest(work.built, source.name, source.classes, int(np.median(sides)), mirror_safe, splits)
    keys = {split: [splits[split].key(row) for row in range(len(splits[split]))] for split in splits}
    labels = {split: splits[split].label for split in splits}
    found = {split: ImageHashes.join([one.hashes for one in shards]) for split, shards in in_order.items()}
    return Built(manifest, find_duplicates(keys, labels, found), damaged)


def without_duplicates(source: Source, pixels: bool, mapper: Mapper, progress: ProgressCallback | None) -> Source:
    """The source without the images of "train" that another split has too; they are counted as ignored.

    Raises:
        DataError: a class would have nothing left to train on.
    """
    total, done = sum(map(len, source.splits.values())), 0
    parts: dict[str, dict[int, ImageHashes]] = {split: {} for split in source.splits}
    with closing(hash_images(source.splits, pixels, mapper)) as results:
        for split, begin, part in results:
            parts[split][begin] = part
            done += len(part.content)
            if progress is not None:
                progress(PreparingProgress(done, total, "comparing"))
    found = {split: ImageHashes.join([of[begin] for begin in sorted(of)]) for split, of in parts.items()}
    shared = in_other_splits(found)
    records = source.splits[TRAIN]
    train = tuple(record for record, drop in zip(records, shared, strict=True) if not drop)
    if lost := sorted({record.class_name for record in records} - {record.class_name for record in train}):
        raise DataError(f"{source.name}: without duplicates class {lost[0]!r} has no training image left; add images")
    dropped = tuple(record.origin for record, drop in zip(records, shared, strict=True) if drop)
    ignored = {**source.ignored, IN_OTHER_SPLITS: dropped} if dropped else source.ignored
    return replace(source, splits={**source.splits, TRAIN: train}, ignored=ignored)


def with_validation(
    source: Source,
    fraction: float,
    seed: int,
    pixels: bool,
    mapper: Mapper,
    progress: ProgressCallback | None,
) -> Source:
    """The source with a "val"; where it has none of its own, equal images go to the same side."""
    records = source.splits[TRAIN]
    if VAL in source.splits or all(record.path is None for record in records):
        return source.with_validation(fraction, seed)
    done = 0

    def more(images: int) -> None:
        nonlocal done
        done = min(done + images, len(records))
        if progress is not None:
            progress(PreparingProgress(done, len(records), "comparing"))

    same = (equal_pixels if pixels else equal_files)(records, mapper, more)
    return source.with_validation(fraction, seed, same)


def _damaged(source: Source, damaged: Mapping[str, str], total: int, listing: Path, note: Note) -> DataError:
    reasons = list(damaged.values())
    skip = "or leave it out with --on-corrupt skip"
    if len(reasons) == 1:
        return DataError(f"{reasons[0]}, {skip}")
    listing.write_text("".join(f"{why}\n" for why in reasons), "utf-8")
    for why in reasons[:_SHOWN_DAMAGED]:
        note(why)
    problem = f"{len(damaged):,} of {total:,} images cannot be used, all of them listed in {listing}"
    return DataError(f"{source.name}: {problem}; repair or remove them, {skip.replace(' it ', ' them ')}")


def _require_images(source: Source, built: Mapping[str, Sequence[BuiltShard]]) -> None:
    for split, shards in built.items():
        if not any(one.shard.samples for one in shards):
            raise DataError(f"{source.name}: split {split} has no image left that is not damaged; repair them")
    trained = {source.classes[label] for one in built[TRAIN] for label in one.label.tolist()}
    if lost := sorted({record.class_name for record in source.splits[TRAIN]} - trained):
        raise DataError(f"{source.name}: class {lost[0]!r} has no image left that is not damaged; add or repair images")


def _tasks(source: Source, work: WorkFolder, settings: ShardSettings) -> Iterator[ShardTask]:
    labels = {name: number for number, name in enumerate(source.classes)}
    numbers = count()
    for split_number, (split, records) in enumerate(source.splits.items()):
        # Not class after class: a shuffle in blocks of shards, and any plain WebDataset reader, need mixed shards.
        order = permutation(len(records), Domain.WRITING, settings.seed, minor=split_number)
        mixed = [records[position] for position in order]
        sizes = [record.bytes + len(str(labels[record.class_name])) for record in mixed]
        for within, (begin, end) in enumerate(
            shard_bounds(sizes, settings.samples_per_shard, settings.bytes_per_shard)
        ):
            name = f"{split}/{within:06d}.tar"
            of_shard = tuple(mixed[begin:end])
            yield ShardTask(
                next(numbers),
                work.built,
                name,
                work.completion(name),
                of_shard,
                tuple(labels[record.class_name] for record in of_shard),
                settings.reencoding,
                settings.pixels,
                _inputs(split, of_shard, source.classes, settings),
            )


def _inputs(split: str, records: Sequence[Record], classes: Sequence[str], settings: ShardSettings) -> str:
    """sha256 over everything that decides what a shard holds; a file that changed has another size or time."""
    hasher = hashlib.sha256(json.dumps([_INPUTS_VERSION, asdict(settings), split, classes]).encode())
    for record in records:
        hasher.update(json.dumps([record.key, record.class_name, record.bytes, record.stamp]).encode())
    return hasher.hexdigest()
