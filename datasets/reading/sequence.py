"""The global batches of a run: each epoch's order cut into batches, and what becomes of the samples left over."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .order import BatchLayout, EpochOrder, receipt

Tail = Literal["drop", "carry"]
"""What becomes of the samples at the end of an epoch's order that fill no batch: left out, or first in the next epoch.

Left out, it is others in every epoch. Carried over, every sample is seen once in every order, and the last epoch's tail
alone is left out; then epochs differ in length by a batch, and the batch at their border, in the same batch even the
same sample, may show both.
"""


class EpochSamples(NamedTuple):
    """What the batches of an epoch are cut from.

    ids: the sample id at each position, int64, read-only. carried: so many of the first ones are of the order before.
    """

    ids: NDArray[np.int64]
    carried: int


@dataclass(frozen=True)
class BatchSequence:
    """Every global batch of a run, as a pure function of (order, global_batch, tail).

    Attributes:
        order: of the samples in any epoch.
        global_batch: samples of a batch over all ranks.
        tail: see `Tail`.

    Raises:
        DataError: an epoch would not have a single batch, or there is no such tail.
    """

    order: EpochOrder
    global_batch: int
    tail: Tail = "drop"

    def __post_init__(self) -> None:
        if self.tail not in get_args(Tail):
            raise DataError(f"tail must be {' or '.join(get_args(Tail))}, got {self.tail!r}")
        BatchLayout(len(self.order), self.global_batch)

    @property
    def batches_per_epoch(self) -> float:
        """Batches of an epoch; on average, if the tail is carried over."""
        samples = len(self.order)
        return samples / self.global_batch if self.tail == "carry" else samples // self.global_batch

    def first_batch(self, epoch: int) -> int:
        """How many batches all epochs before `epoch` have."""
        samples = len(self.order)
        return epoch * samples // self.global_batch if self.tail == "carry" else epoch * (samples // self.global_batch)

    def batches_in(self, epoch: int) -> int:
        """Batches of `epoch`, at least one."""
        return self.first_batch(epoch + 1) - self.first_batch(epoch)

    def samples(self, epoch: int) -> EpochSamples:
        """The samples of `epoch`: first those carried over, then the order's. Dropped ones are at the end.

        The epoch asked for last is remembered, see `EpochOrder.sample_ids`.
        """
        if self.tail == "drop":
            return EpochSamples(self.order.sample_ids(epoch), 0)
        return _carried(self, epoch)

    def batch_ids(self, epoch: int, batch: int) -> NDArray[np.int64]:
        """The sample ids of global batch `batch` of `epoch`, int64 (global_batch,)."""
        first = batch * self.global_batch
        return self.samples(epoch).ids[first : first + self.global_batch]

    def receipt(self, epoch: int, start_batch: int = 0) -> int:
        """What the receipts of all ranks from `start_batch` to the end of `epoch` add up to (see `order.receipt`)."""
        consumed = slice(start_batch * self.global_batch, self.batches_in(epoch) * self.global_batch)
        ids = self.samples(epoch).ids
        return receipt(np.arange(len(ids), dtype=np.int64)[consumed], ids[consumed])


@lru_cache(maxsize=1)
def _carried(sequence: BatchSequence, epoch: int) -> EpochSamples:
    samples = len(sequence.order)
    carried = epoch * samples - sequence.first_batch(epoch) * sequence.global_batch
    # The order before comes first: it is the one that is remembered, if the epochs are gone through one by one.
    before = sequence.order.sample_ids(epoch - 1)[samples - carried :] if carried else np.empty(0, dtype=np.int64)
    own = sequence.order.sample_ids(epoch)[: sequence.batches_in(epoch) * sequence.global_batch - carried]
    ids = np.concatenate([before, own])
    ids.setflags(write=False)
    return EpochSamples(ids, carried)
