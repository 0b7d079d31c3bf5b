"""The data loaders of training and evaluation: one rank's batches, in an exact order."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..decoding.augmentation import NO_AUGMENTATION, Augmentation
from ..decoding.pictures import JpegPicture, Picture
from ..decoding.resizing import Interpolation
from ..decoding.transforms import DEFAULT_CROP_RATIO, DEFAULT_CROP_SCALE, EvalTransform, Scale, TrainTransform
from ..errors import DataError
from ..manifest import TRAIN, VAL, Manifest
from .batch import Batch, OnCorrupt
from .order import BatchLayout, EpochOrder
from .pipeline import EpochReader
from .reader import ShardReader
from .sequence import BatchSequence, Tail

# Shards side by side in evaluation, which goes through them one after the other.
_EVAL_WINDOW = 2


class TrainLoader:
    """Augmented training batches of one rank, in an exact order: see `sequence`.

    Args:
        image_size: side of the images in pixels.
        global_batch: samples of one optimizer step over all ranks; a multiple of `world_size`.
        seed: of the order and of the augmentation.
        tail: whether the samples at an epoch's end that fill no batch are dropped or begin the next epoch.
        loader_workers: processes that read and decode ahead; 0 does it in this process. Never changes what comes out.
        pin_memory: whether batches lie where a GPU can copy them from while it computes; needs CUDA.
        shuffle_block: shards that are shuffled together; None is `Manifest.default_shuffle_block`: all, or as many as
            hold 4 GiB. Remote shards of a block must fit the node's cache; if two blocks do, the next one is fetched
            while one is read.
        crop_scale, crop_ratio: of the random resized crop, see `TrainTransform`.
        mirror: random horizontal flips; None does what the manifest says is safe.
        augmentation: a policy and random erasing on top of crop and flip.
        paired: whether batches come with the samples that theirs are mixed with: `Batch.partners`.
        augment: False gives every image as evaluation would (shorter side to `image_size`, centre crop).
        interpolation: of evaluation, for images without augmentation.
        on_corrupt: "skip" shows in place of a sample that cannot be decoded the next one in the epoch's order that can,
            cyclically: a function of the data, seed, epoch and position. A shard that is missing, truncated or cannot
            be reached stops the run all the same, since that depends on the machine and the moment.

    Attributes:
        sequence: the global batches of all epochs, of which this rank reads its slices. They depend on manifest, seed,
            epoch, global batch, shuffle block and tail alone.

    Raises:
        DataError: sizes that do not fit together, or no such split.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        image_size: int,
        global_batch: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        tail: Tail = "drop",
        loader_workers: int = 0,
        pin_memory: bool = False,
        shuffle_block: int | None = None,
        crop_scale: Scale = DEFAULT_CROP_SCALE,
        crop_ratio: Scale = DEFAULT_CROP_RATIO,
        mirror: bool | None = None,
        paired: bool = False,
        augment: bool = True,
        augmentation: Augmentation = NO_AUGMENTATION,
        interpolation: Interpolation = "bicubic",
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        split = manifest.split(TRAIN)
        block = manifest.default_shuffle_block if shuffle_block is None else shuffle_block
        self.sequence = BatchSequence(EpochOrder(split.shard_samples, seed, block), global_batch, tail)
        self._layout = BatchLayout(len(split), global_batch, rank, world_size, paired=paired)
        self._augmentation = TrainTransform(
            image_size,
            seed,
            crop_scale,
            crop_ratio,
            manifest.mirror_safe if mirror is None else mirror,
            augmentation,
        )
        self._plain = None if augment else EvalTransform(image_size, image_size, interpolation)
        self._reader = ShardReader(manifest, TRAIN, block)
        self._labels = split.label
        self._image_size = image_size
        self._workers, self._pin_memory = _checked_workers(loader_workers), pin_memory
        self._on_corrupt = on_corrupt

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches start_batch, start_batch + 1, ... of an epoch; nothing before them is read.

        Raises:
            DataError: now, for an epoch or batch that does not exist; on iteration, for a sample that cannot be read.
        """
        batches = self.sequence.batches_in(epoch)
        if not 0 <= start_batch <= batches:
            raise DataError(f"batch {start_batch} does not exist; an epoch has batches 0 to {batches - 1}")
        ids, carried = self.sequence.samples(epoch)
        return EpochReader(
            replace(self._layout, samples=len(ids)),
            start_batch,
            ids,
            self._labels,
            self._reader,
            _OfEpoch(self._plain or self._augmentation, epoch, carried),
            self._image_size,
            self._on_corrupt,
            replace=True,
        ).batches(self._workers, self._pin_memory)


class EvalLoader:
    """One rank's share of a split for evaluation: over all ranks each sample exactly once, in the manifest's order.

    Every rank yields `batches` batches of `batch_size`; where the split runs out, samples are padding with mask False.

    Args:
        image_size, resize: in pixels, see `EvalTransform`, as for `interpolation`.
        batch_size: samples of a batch on one rank.
        loader_workers, pin_memory: see `TrainLoader`.
        on_corrupt: "skip" masks a sample out that cannot be decoded and lists it; see `TrainLoader`.

    Raises:
        DataError: sizes that do not fit together, or no such split.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        split: str = VAL,
        image_size: int,
        resize: int,
        interpolation: Interpolation = "bicubic",
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        loader_workers: int = 0,
        pin_memory: bool = False,
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        samples = manifest.split(split)
        self.layout = BatchLayout.evaluation(len(samples), batch_size, rank, world_size)
        ids: NDArray[np.int64] = np.arange(len(samples), dtype=np.int64)
        transform = _OfEpoch(EvalTransform(image_size, resize, interpolation))
        reader = ShardReader(manifest, split, _EVAL_WINDOW)
        self._batches = EpochReader(
            self.layout, 0, ids, samples.label, reader, transform, image_size, on_corrupt, replace=False
        )
        self._workers, self._pin_memory = _checked_workers(loader_workers), pin_memory

    @property
    def batches(self) -> int:
        """Batches of the evaluation, the same on every rank."""
        return self.layout.batches

    def __len__(self) -> int:
        return self.layout.batches

    def __iter__(self) -> Iterator[Batch]:
        return self._batches.batches(self._workers, self._pin_memory)


@dataclass(frozen=True)
class _OfEpoch:
    """Binds an epoch, so that both transforms are called alike; not a closure, as workers may have to pickle it.

    The first `carried` positions are those of samples of the epoch before.
    """

    transform: TrainTransform | EvalTransform
    epoch: int = 0
    carried: int = 0

    def __call__(self, picture: Picture | JpegPicture, position: int, sample_id: int) -> torch.Tensor:
        if isinstance(self.transform, EvalTransform):
            return self.transform(picture)
        return self.transform(picture, self.epoch - (position < self.carried), sample_id)


def _checked_workers(count: int) -> int:
    if count < 0:
        raise DataError(f"loader_workers must be 0 or more, got {count}")
    return count
