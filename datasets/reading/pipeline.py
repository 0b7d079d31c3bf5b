"""Reading one epoch: a `webdataset.DataPipeline` whose source is an exact order instead of a list of shards.

position and sample id (order) → image bytes (positioned read) → uint8 tensor (decode, augment) → `Batch`
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, get_worker_info
from webdataset import DataPipeline

from ..decoding.pictures import JpegPicture, Picture, open_picture
from ..errors import DataError
from ..surroundings import shorten_worker_sockets
from .batch import Batch, Corrupt, OnCorrupt
from .order import BatchLayout
from .reader import ShardReader

# So many in a row that cannot be decoded are no accident.
_MAX_REPLACEMENTS = 1000


class Transform(Protocol):
    """What a reader makes of its pictures."""

    def __call__(self, picture: Picture | JpegPicture, position: int, sample_id: int) -> torch.Tensor:
        """The picture of a sample, at a position of the epoch → uint8 tensor (3, image_size, image_size)."""


class _Place(NamedTuple):
    position: int
    sample_id: int  # -1: padding


class _Encoded(NamedTuple):
    place: _Place  # with the id of the sample that was read
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
class EpochReader:
    """A reader of one epoch: its settings, and as private methods the stages of its pipeline.

    Attributes:
        layout: which positions this rank reads.
        start_batch: the first one that it does.
        ids: sample id of every position, int64.
        labels: class of every sample.
        reader: of the samples' bytes.
        transform: what is made of their pictures.
        image_size: side of what that makes, in pixels.
        replace: with `on_corrupt="skip"`, whether another sample is shown in place of a corrupt one or none (masked).
    """

    layout: BatchLayout
    start_batch: int
    ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    reader: ShardReader
    transform: Transform
    image_size: int
    on_corrupt: OnCorrupt
    replace: bool

    def batches(self, workers: int, pin_memory: bool) -> Iterator[Batch]:
        """The batches from `start_batch` on, made by `workers` processes, or by this one if there are none.

        `pin_memory` is for whoever trains on a GPU: it uses CUDA in this process.

        Raises:
            DataError: a sample cannot be read, or there is no folder for the workers' sockets.
        """
        if workers:
            shorten_worker_sockets()
        loader: DataLoader[Batch | _Failure] = DataLoader(
            DataPipeline(self._places, self._read, self._decode, self._batch, self._deliver),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            # torch draws the workers' seed; from its global generator that would shift the numbers which dropout sees.
            generator=torch.Generator(),
        )
        for item in loader:
            if isinstance(item, _Failure):
                raise DataError(item.message)
            yield item

    def _places(self) -> Iterator[_Place]:
        for batch in self.layout.worker_batches(self.start_batch, *_this_worker()):
            for position in self.layout.positions(batch).tolist():
                yield _Place(position, int(self.ids[position]) if position < len(self.ids) else -1)

    def _read(self, places: Iterator[_Place]) -> Iterator[_Encoded]:
        with self.reader.following(self._upcoming):
            for place in places:
                yield _Encoded(place, b"") if place.sample_id < 0 else self._encoded(place)

    def _encoded(self, place: _Place) -> _Encoded:
        read = self.reader.read(place.sample_id)
        return _Encoded(place._replace(sample_id=read.sample_id), read.data)

    def _upcoming(self) -> NDArray[np.int64]:
        return self.ids[self.layout.worker_positions(self.start_batch, *_this_worker())]

    def _decode(self, samples: Iterator[_Encoded]) -> Iterator[_Decoded]:
        for place, data in samples:
            if place.sample_id < 0:
                yield _Decoded(place, None, -1)
                continue
            try:
                decoded = _Decoded(place, self._image(place, data), place.sample_id)
            except DataError as error:
                if self.on_corrupt == "stop":
                    raise
                decoded = self._without(place, str(error))
            yield decoded

    def _image(self, place: _Place, data: bytes) -> torch.Tensor:
        try:
            return self.transform(open_picture(data), *place)
        except DataError as error:
            raise DataError(f"{self.reader.where(place.sample_id)}: {error}") from error

    def _without(self, place: _Place, reason: str) -> _Decoded:
        """What is shown in place of a corrupt sample: nothing, or the next readable one of the order."""
        if not self.replace:
            return _Decoded(place, None, -1, Corrupt(*place, reason, -1))
        for step in range(1, min(_MAX_REPLACEMENTS, len(self.ids))):
            replacement = int(self.ids[(place.position + step) % len(self.ids)])
            encoded = self._encoded(_Place(place.position, replacement))
            try:
                image = self._image(*encoded)
            except DataError:
                continue
            return _Decoded(place, image, replacement, Corrupt(*place, reason, replacement))
        raise DataError(f"{reason}; and no sample after it in the epoch's order can be decoded; repair the dataset")

    def _batch(self, samples: Iterator[_Decoded]) -> Iterator[Batch]:
        places: list[_Decoded] = []
        images = self._no_images()
        for sample in samples:
            # At once, while the picture is still in the processor's cache; and its memory serves the next one.
            row = images[len(places)]
            if sample.image is None:
                row.zero_()
            else:
                row.copy_(sample.image)
            places.append(sample._replace(image=None))
            if len(places) == len(images):
                yield self._collate(images, places)
                places, images = [], self._no_images()

    def _no_images(self) -> torch.Tensor:
        shape = (len(self.layout.offsets), self.image_size, self.image_size, 3)
        # NumPy asks for huge pages (from 4 MiB on): a few page faults instead of thousands.
        return torch.from_numpy(np.empty(shape, dtype=np.uint8)).permute(0, 3, 1, 2)

    def _deliver(self, batches: Iterator[Batch]) -> Iterator[Batch | _Failure]:
        try:
            yield from batches
        except DataError as error:
            yield _Failure(str(error))

    def _collate(self, images: torch.Tensor, samples: list[_Decoded]) -> Batch:
        shown = np.array([sample.shown for sample in samples], dtype=np.int64)
        # Padding has class 0 rather than -1: every loss accepts it, and the mask takes it out of the sums.
        labels = np.where(shown >= 0, self.labels[shown], 0).astype(np.int64)
        own = samples[: self.layout.local_batch]  # what partners from outside of the slice are, their own rank tells
        return Batch(
            images,
            torch.from_numpy(labels),
            torch.tensor([sample.place.sample_id for sample in own]),
            torch.tensor([sample.place.position for sample in own]),
            torch.from_numpy(shown[: len(own)] >= 0),
            tuple(sample.corrupt for sample in own if sample.corrupt is not None),
            torch.from_numpy(self.layout.partner_rows) if self.layout.paired else None,
        )


def _this_worker() -> tuple[int, int]:
    """(number of this loader worker, how many there are); (0, 1) where the loader has none."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)
