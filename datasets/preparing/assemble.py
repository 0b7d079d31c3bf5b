"""Making all shards of a dataset: what each will hold is decided first, then any processes build them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..manifest import TRAIN, Manifest
from ..philox import Domain, permutation
from .build import BuiltShard, ShardTask, build_shard, join_shards
from .duplicates import Duplicates, ImageHashes, find_duplicates, hash_images, in_other_splits
from .processes import Mapper
from .reencode import Reencoding
from .shards import shard_bounds
from .sources import Record, Source
from .workfolder import Note, WorkFolder

_INPUTS_VERSION = 1


class PreparingProgress(NamedTuple):
    """How far `prepare` is: images done, images in all, and files of the source that were no images.

    `stage` is "comparing" (only with `drop_duplicates`), then "writing".
    """

    done: int
    total: int
    ignored: int
    stage: str = "writing"


ProgressCallback = Callable[[PreparingProgress], None]
DuplicatesCallback = Callable[[list[Duplicates]], None]


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
) -> tuple[Manifest, list[Duplicates]]:
    """Build the shards of a source, those that an earlier run has left in `work` excepted, below `work.built`.

    Returns:
        their manifest, which is not saved yet, and the images that several splits share.
    """
    tasks = list(_tasks(source, work, settings))
    work.begin({task.name: task.inputs for task in tasks}, note)
    total, done = sum(len(task.records) for task in tasks), 0
    built: dict[int, BuiltShard] = {}
    with closing(mapper(build_shard, tasks)) as results:
        for one in results:
            built[one.number] = one
            done += one.shard.samples
            if progress is not None:
                progress(PreparingProgress(done, total, source.ignored))
    in_order: dict[str, list[BuiltShard]] = {split: [] for split in source.splits}
    for task in tasks:
        in_order[task.name.partition("/")[0]].append(built[task.number])
    splits = {split: join_shards(shards) for split, shards in in_order.items()}
    sides = np.concatenate([one.short_side for one in built.values()])
    manifest = Manifest(work.built, source.name, source.classes, int(np.median(sides)), mirror_safe, splits)
    keys = {split: [splits[split].key(row) for row in range(len(splits[split]))] for split in splits}
    found = {split: ImageHashes.join([one.hashes for one in shards]) for split, shards in in_order.items()}
    return manifest, find_duplicates(keys, found)


def without_duplicates(source: Source, pixels: bool, mapper: Mapper, progress: ProgressCallback | None) -> Source:
    """The source without the images of "train" that another split has too.

    Raises:
        DataError: an image is damaged, or a class would have nothing left to train on.
    """
    total, done = sum(map(len, source.splits.values())), 0
    parts: dict[str, dict[int, ImageHashes]] = {split: {} for split in source.splits}
    with closing(hash_images(source.splits, pixels, mapper)) as results:
        for split, begin, part in results:
            parts[split][begin] = part
            done += len(part.content)
            if progress is not None:
                progress(PreparingProgress(done, total, source.ignored, "comparing"))
    found = {split: ImageHashes.join([of[begin] for begin in sorted(of)]) for split, of in parts.items()}
    shared = in_other_splits(found)
    train = tuple(record for record, drop in zip(source.splits[TRAIN], shared, strict=True) if not drop)
    before, after = ({record.class_name for record in records} for records in (source.splits[TRAIN], train))
    if lost := sorted(before - after):
        raise DataError(f"{source.name}: without duplicates class {lost[0]!r} has no training image left; add images")
    return replace(source, splits={**source.splits, TRAIN: train})


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
