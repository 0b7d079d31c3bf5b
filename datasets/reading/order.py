"""The order of samples: which one stands at which position of an epoch, and which rank reads it.

Everything here is arithmetic on numbers, without files, processes or torch. Sharding comes after ordering: the global
order knows neither ranks nor workers. A `BatchLayout` only cuts it up, so any number of ranks reads the same sequence.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..philox import Domain, permutation, require_word

_MASK = 2**64 - 1


@dataclass(frozen=True)
class EpochOrder:
    """The order of a split's samples in any epoch, as a pure function of (shard sizes, seed, shuffle_block, epoch).

    Shards are permuted, grouped in blocks of `shuffle_block`, and the samples of each block are permuted.

    Attributes:
        shard_samples: number of samples of each shard; sample ids count through the shards in this order.
        seed: 0..2^64-1.
        shuffle_block: shards per block; None is all of them, a perfect shuffle. A rank needs only one block's shards
            at hand.
    """

    shard_samples: tuple[int, ...]
    seed: int
    shuffle_block: int | None = None

    def __post_init__(self) -> None:
        require_word("seed", self.seed)
        if self.shuffle_block is not None and self.shuffle_block < 1:
            raise DataError(f"shuffle_block must be at least 1 shard, got {self.shuffle_block}")

    def __len__(self) -> int:
        return sum(self.shard_samples)

    def sample_ids(self, epoch: int) -> NDArray[np.int64]:
        """The sample id at each position of `epoch`, int64 (N,), read-only: a permutation of 0..N-1.

        The epoch asked for last is remembered, so that a receipt, or a start in its middle, costs no second sort.
        """
        return _remembered(self, epoch)

    def _sample_ids(self, epoch: int) -> NDArray[np.int64]:
        sizes = np.array(self.shard_samples, dtype=np.int64)
        shards = permutation(len(sizes), Domain.SHARDS, self.seed, epoch)
        block = self.shuffle_block or max(len(sizes), 1)
        firsts = np.cumsum(sizes) - sizes
        parts = []
        for number, start in enumerate(range(0, len(sizes), block)):
            of_block = shards[start : start + block]
            counts = sizes[of_block]
            # Ids of the block's shards one after the other: each shard's first id, plus 0..count-1 within it.
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            ids = np.repeat(firsts[of_block], counts) + within
            parts.append(ids[permutation(len(ids), Domain.SAMPLES, self.seed, epoch, number)])
        order = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        order.setflags(write=False)
        return order


@lru_cache(maxsize=1)
def _remembered(order: EpochOrder, epoch: int) -> NDArray[np.int64]:
    return order._sample_ids(epoch)


@dataclass(frozen=True)
class BatchLayout:
    """Which positions of an order a (rank, loader worker) reads, for training or for evaluation.

    Position p belongs to global batch p // global_batch; rank r takes the r-th contiguous slice of each global batch.
    Training (`drop_tail`) has floor(N / B) batches on every rank, so none runs dry before the others. Evaluation has
    ceil(N / B), and positions from N on are padding, to be masked: again the same count on every rank.

    Mixup and CutMix need `paired`: the rank then also reads those that its samples are mixed with (see `partners`), at
    most two per batch, where they lie outside of its slice.

    Raises:
        DataError: sizes that do not fit together; one line that says what to change.
    """

    samples: int
    global_batch: int
    rank: int = 0
    world_size: int = 1
    drop_tail: bool = True
    paired: bool = False

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise DataError(f"rank {self.rank} of {self.world_size} does not exist")
        if self.global_batch < 1:
            raise DataError(f"the global batch must be at least 1, got {self.global_batch}")
        if self.global_batch % self.world_size:
            raise DataError(
                f"global batch {self.global_batch} cannot be shared by {self.world_size} workers equally; "
                f"use a multiple of {self.world_size}"
            )
        if self.paired and self.global_batch < 2:
            raise DataError("mixup and CutMix take two images to mix; use a global batch of at least 2")
        if self.samples < 1:
            raise DataError("there are no samples to read")
        if self.drop_tail and self.samples < self.global_batch:
            raise DataError(
                f"global batch {self.global_batch} is larger than the {self.samples} training samples; "
                f"use at most {self.samples} or more data"
            )

    @classmethod
    def evaluation(cls, samples: int, batch_size: int, rank: int = 0, world_size: int = 1) -> "BatchLayout":
        """The layout that visits every sample once over all ranks, with `batch_size` of them per rank and batch."""
        return cls(samples, batch_size * max(world_size, 0), rank, world_size, drop_tail=False)

    @property
    def batches(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self.samples // self.global_batch if self.drop_tail else -(-self.samples // self.global_batch)

    @property
    def local_batch(self) -> int:
        """Samples of one batch on one rank, padding included, without partners from outside of the slice."""
        return self.global_batch // self.world_size

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where in a global batch the samples stand that this rank reads: its slice, then partners outside of it."""
        own = self.rank * self.local_batch + np.arange(self.local_batch, dtype=np.int64)
        return np.concatenate([own, np.setdiff1d(partners(own, self.global_batch), own)]) if self.paired else own

    @cached_property
    def partner_rows(self) -> NDArray[np.int64]:
        """For each sample of the slice, which of `offsets` is its partner's, int64 (local_batch,); only if `paired`."""
        rows = {offset: row for row, offset in enumerate(self.offsets.tolist())}
        wanted = partners(self.offsets[: self.local_batch], self.global_batch)
        return np.array([rows[offset] for offset in wanted.tolist()], dtype=np.int64)

    def positions(self, batch: int) -> NDArray[np.int64]:
        """The positions of global batch `batch` that this rank reads; those >= samples (evaluation) are padding."""
        return batch * self.global_batch + self.offsets

    def worker_batches(self, start: int, worker: int, workers: int) -> range:
        """The batches that loader worker `worker` of `workers` builds when the epoch is read from batch `start` on.

        Counted from `start`, not from 0: the loader asks its workers in turn, beginning with worker 0.
        """
        return range(start + worker, self.batches, workers)

    def worker_positions(self, start: int, worker: int, workers: int) -> NDArray[np.int64]:
        """The positions of all `worker_batches` one after the other, int64, without those of padding."""
        firsts = np.array(self.worker_batches(start, worker, workers), dtype=np.int64) * self.global_batch
        positions = firsts[:, None] + self.offsets
        return positions[positions < self.samples]


def partners(offsets: NDArray[np.int64], global_batch: int) -> NDArray[np.int64]:
    """Where in a global batch the samples stand that those at `offsets` are mixed with.

    Neighbours are mixed with each other: 0 with 1, 2 with 3, .... The last of an odd number takes the one before it.
    The pairs belong to the global batch, so no number of ranks changes them. Slices of an even length hold all of their
    partners; any other slice lacks one or two.
    """
    neighbours = offsets ^ 1
    return np.where(neighbours < global_batch, neighbours, offsets - 1)


def receipt(positions: NDArray[np.int64], sample_ids: NDArray[np.int64]) -> int:
    """A 64-bit hash of "sample i was consumed at position p" over all the given pairs.

    Receipts of parts (batches, ranks, stretches between restarts) add up, modulo 2^64, to the receipt of the whole: see
    `merge_receipts`. Swapping, omitting, repeating or replacing samples changes it, up to chance of 2^-64.

    Args:
        positions, sample_ids: int64 of equal shape.
    """
    if positions.shape != sample_ids.shape:
        raise ValueError(f"{positions.shape} positions for {sample_ids.shape} sample ids")
    hashed = _mix(_mix(positions.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) ^ sample_ids.astype(np.uint64))
    return int(hashed.sum(dtype=np.uint64))


def merge_receipts(*parts: int) -> int:
    """The receipt of the union of disjoint parts."""
    return sum(parts) & _MASK


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
