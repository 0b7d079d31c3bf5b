"""Batches in exact order: a `webdataset.DataPipeline` whose source is the epoch order instead of a list of shards.

position and sample id (order) → image bytes (positioned read) → uint8 tensor (decode, augment) → `Batch`
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info
from webdataset import DataPipeline

from .augmentation import NO_AUGMENTATION, Augmentation
from .errors import DataError
from .manifest import Manifest
from .order import BatchPlan, EpochOrder
from .pictures import JpegPicture, Picture, open_picture
from .reader import ShardReader
from .sources import TRAIN, VAL
from .transforms import DEFAULT_CROP_RATIO, DEFAULT_CROP_SCALE, EvalTransform, Scale, TrainTransform

# Shards side by side in evaluation, which goes through them one after the other.
_EVAL_WINDOW = 2

# So many in a row that cannot be decoded are no accident.
_MAX_REPLACEMENTS = 1000

Transform = Callable[[Picture | JpegPicture, int], torch.Tensor]
"""(picture, sample id) → uint8 tensor (3, image_size, image_size)."""


OnCorrupt = Literal["stop", "skip"]
"""What to do about a sample that cannot be decoded: stop with a DataError, or go on without it and list it."""


class Corrupt(NamedTuple):
    """A sample that could not be decoded: its position and id, why (with shard and key), and the id of the sample that
    was shown in its place; -1 in evaluation, where it is masked out."""

    position: int
    sample_id: int
    reason: str
    replacement: int


class Batch(NamedTuple):
    """One rank's slice of a global batch, N samples; in evaluation `mask` is False for padding (zeros, sample id -1).

    images: uint8 (N, 3, image_size, image_size), channels last in memory: decoders write and convolutions like that.
    labels, sample_ids, positions: int64 (N,). mask: bool (N,).
    corrupt: the samples that were replaced or masked out; always empty with `on_corrupt="stop"`. `sample_ids` are those
    that the order says all the same, so a receipt tells what was scheduled, and this list what was replaced in it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    corrupt: Sequence[Corrupt] = ()


class TrainLoader:
    """Augmented training batches of one rank, in an order that depends on (manifest, seed, epoch, global batch) alone.

    Args:
        image_size: side of the images in pixels.
        global_batch: samples of one optimizer step over all ranks; a multiple of `world_size`.
        seed: of the order and of the augmentation.
        loader_workers: processes that read and decode ahead; 0 does it in this process. Never changes what comes out.
        shuffle_block: shards that are shuffled together; None is `Manifest.default_shuffle_block`: all of local shards,
            16 of remote ones. Remote shards of a block must fit the node's cache; if two blocks do, the next one is
            fetched while one is read.
        crop_scale, crop_ratio: of the random resized crop, see `TrainTransform`.
        mirror: random horizontal flips; None does what the manifest says is safe.
        augmentation: a policy and random erasing on top of crop and flip.
        augment: False gives every image as evaluation would (shorter side to `image_size`, centre crop).
        on_corrupt: "skip" shows in place of a sample that cannot be decoded the next one in the epoch's order that can,
            cyclically: a function of the data, seed, epoch and position. A shard that is missing, truncated or cannot
            be reached stops the run all the same, since that depends on the machine and the moment.

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
        loader_workers: int = 0,
        shuffle_block: int | None = None,
        crop_scale: Scale = DEFAULT_CROP_SCALE,
        crop_ratio: Scale = DEFAULT_CROP_RATIO,
        mirror: bool | None = None,
        augment: bool = True,
        augmentation: Augmentation = NO_AUGMENTATION,
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        split = manifest.split(TRAIN)
        block = manifest.default_shuffle_block if shuffle_block is None else shuffle_block
        self.order = EpochOrder(split.shard_samples, seed, block)
        self.plan = BatchPlan(len(split), global_batch, rank, world_size)
        self._augmentation = TrainTransform(
            image_size,
            seed,
            crop_scale,
            crop_ratio,
            manifest.mirror_safe if mirror is None else mirror,
            augmentation,
        )
        self._plain = None if augment else EvalTransform(image_size, image_size)
        self._reader = ShardReader(manifest, TRAIN, block or len(split.shards))
        self._labels = split.label
        self._image_size = image_size
        self._workers = _checked_workers(loader_workers)
        self._on_corrupt = on_corrupt

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, the same on every rank; the tail of the order is dropped (see `plan.dropped`)."""
        return self.plan.batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches start_batch, start_batch + 1, ... of an epoch; nothing before them is read.

        Raises:
            DataError: now, for an epoch or batch that does not exist; on iteration, for a sample that cannot be read.
        """
        if not 0 <= start_batch <= self.plan.batches:
            raise DataError(f"batch {start_batch} does not exist; an epoch has batches 0 to {self.plan.batches - 1}")
        transform = _EpochTransform(self._plain or self._augmentation, epoch)
        ids = self.order.sample_ids(epoch)
        job = _Job(
            self.plan, start_batch, ids, self._labels, self._reader, transform, self._image_size, self._on_corrupt
        )
        return _iterate(job, self._workers)

    def batches_in(self, epoch: int) -> int:
        """Batches of `epoch`."""
        return self.plan.batches

    def first_batch(self, epoch: int) -> int:
        """How many batches all epochs before `epoch` have."""
        return epoch * self.plan.batches

    def batch_ids(self, epoch: int, batch: int) -> NDArray[np.int64]:
        """The sample ids of a global batch of `epoch`, int64 (global_batch,)."""
        first = batch * self.plan.global_batch
        return self.order.sample_ids(epoch)[first : first + self.plan.global_batch]

    def expected_receipt(self, epoch: int, start_batch: int = 0) -> int:
        """What the receipts of all ranks from `start_batch` to the end of `epoch` add up to (see `order.receipt`)."""
        return self.order.receipt(epoch, start_batch * self.plan.global_batch, self.plan.consumed)


class EvalLoader:
    """One rank's share of a split for evaluation: over all ranks each sample exactly once, in the manifest's order.

    Every rank yields `batches` batches of `batch_size`; where the split runs out, samples are padding with mask False.

    Args:
        image_size, resize: in pixels, see `EvalTransform`.
        batch_size: samples of a batch on one rank.
        loader_workers: see `TrainLoader`.
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
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        loader_workers: int = 0,
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        samples = manifest.split(split)
        self.plan = BatchPlan.evaluation(len(samples), batch_size, rank, world_size)
        ids = np.arange(len(samples), dtype=np.int64)
        transform = _EpochTransform(EvalTransform(image_size, resize), 0)
        reader = ShardReader(manifest, split, _EVAL_WINDOW)
        self._job = _Job(self.plan, 0, ids, samples.label, reader, transform, image_size, on_corrupt)
        self._workers = _checked_workers(loader_workers)

    @property
    def batches(self) -> int:
        """Batches of the evaluation, the same on every rank."""
        return self.plan.batches

    def __len__(self) -> int:
        return self.plan.batches

    def __iter__(self) -> Iterator[Batch]:
        return _iterate(self._job, self._workers)


@dataclass(frozen=True)
class _EpochTransform:
    """Binds an epoch, so that both transforms are called alike; not a closure, as workers may have to pickle it."""

    transform: TrainTransform | EvalTransform
    epoch: int

    def __call__(self, picture: Picture | JpegPicture, sample_id: int) -> torch.Tensor:
        if isinstance(self.transform, EvalTransform):
            return self.transform(picture)
        return self.transform(picture, self.epoch, sample_id)


class _Place(NamedTuple):
    position: int
    sample_id: int  # -1: padding


class _Encoded(NamedTuple):
    place: _Place
    data: bytes


class _Decoded(NamedTuple):
    place: _Place
    image: torch.Tensor | None
    shown: int  # sample id of the image; -1: none
    corrupt: Corrupt | None = None


@dataclass(frozen=True)
class _Failure:
    """A DataError on its way out of a worker process; raised in there, torch would bury its line in a traceback."""

    message: str


@dataclass(frozen=True, eq=False)
class _Job:
    """Everything that one pass over the data needs; its methods are the stages of the pipeline."""

    plan: BatchPlan
    start_batch: int
    ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    reader: ShardReader
    transform: Transform
    image_size: int
    on_corrupt: OnCorrupt

    def places(self) -> Iterator[_Place]:
        for batch in self.plan.worker_batches(self.start_batch, *_this_worker()):
            for position in self.plan.positions(batch):
                yield _Place(position, int(self.ids[position]) if position < len(self.ids) else -1)

    def read(self, places: Iterator[_Place]) -> Iterator[_Encoded]:
        with self.reader.following(self._upcoming):
            for place in places:
                yield _Encoded(place, self.reader.read(place.sample_id) if place.sample_id >= 0 else b"")

    def _upcoming(self) -> NDArray[np.int64]:
        return self.ids[self.plan.worker_positions(self.start_batch, *_this_worker())]

    def decode(self, samples: Iterator[_Encoded]) -> Iterator[_Decoded]:
        for place, data in samples:
            if place.sample_id < 0:
                yield _Decoded(place, None, -1)
                continue
            try:
                decoded = _Decoded(place, self._image(place.sample_id, data), place.sample_id)
            except DataError as error:
                if self.on_corrupt == "stop":
                    raise
                decoded = self._without(place, str(error))
            yield decoded

    def _image(self, sample_id: int, data: bytes) -> torch.Tensor:
        try:
            return self.transform(open_picture(data), sample_id)
        except DataError as error:
            raise DataError(f"{self.reader.where(sample_id)}: {error}") from error

    def _without(self, place: _Place, reason: str) -> _Decoded:
        """What is shown in place of a corrupt sample: nothing in evaluation, else the next readable of the order."""
        if not self.plan.drop_tail:
            return _Decoded(place, None, -1, Corrupt(*place, reason, -1))
        for step in range(1, min(_MAX_REPLACEMENTS, len(self.ids))):
            replacement = int(self.ids[(place.position + step) % len(self.ids)])
            data = self.reader.read(replacement)
            try:
                image = self._image(replacement, data)
            except DataError:
                continue
            return _Decoded(place, image, replacement, Corrupt(*place, reason, replacement))
        raise DataError(f"{reason}; and no sample after it in the epoch's order can be decoded; repair the dataset")

    def batch(self, samples: Iterator[_Decoded]) -> Iterator[Batch]:
        pending: list[_Decoded] = []
        for sample in samples:
            pending.append(sample)
            if len(pending) == self.plan.local_batch:
                yield self._collate(pending)
                pending = []

    def deliver(self, batches: Iterator[Batch]) -> Iterator[Batch | _Failure]:
        try:
            yield from batches
        except DataError as error:
            yield _Failure(str(error))

    def _collate(self, samples: list[_Decoded]) -> Batch:
        images = torch.empty((len(samples), self.image_size, self.image_size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        for row, sample in enumerate(samples):
            if sample.image is None:
                images[row].zero_()
            else:
                images[row] = sample.image
        ids = np.array([sample.place.sample_id for sample in samples], dtype=np.int64)
        shown = np.array([sample.shown for sample in samples], dtype=np.int64)
        mask = shown >= 0
        # Padding has class 0 rather than -1: every loss accepts it, and the mask takes it out of the sums.
        labels = np.where(mask, self.labels[shown], 0).astype(np.int64)
        positions = np.array([sample.place.position for sample in samples], dtype=np.int64)
        corrupt = tuple(sample.corrupt for sample in samples if sample.corrupt is not None)
        as_tensor = torch.from_numpy
        return Batch(images, as_tensor(labels), as_tensor(ids), as_tensor(positions), as_tensor(mask), corrupt)


def _this_worker() -> tuple[int, int]:
    """(number of this loader worker, how many there are); (0, 1) where the loader has none."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def _iterate(job: _Job, workers: int) -> Iterator[Batch]:
    loader: DataLoader[Batch | _Failure] = DataLoader(
        DataPipeline(job.places, job.read, job.decode, job.batch, job.deliver),
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # torch draws the workers' seed; from its global generator that would shift the numbers which dropout sees.
        generator=torch.Generator(),
    )
    for item in loader:
        if isinstance(item, _Failure):
            raise DataError(item.message)
        yield item


def _checked_workers(count: int) -> int:
    if count < 0:
        raise DataError(f"loader_workers must be 0 or more, got {count}")
    return count
