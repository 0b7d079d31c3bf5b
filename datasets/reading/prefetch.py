"""Prefetching: remote shards are fetched ahead of a reader, in the order in which it will need them."""

from collections.abc import Sequence
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..manifest import Shard
from ..remote import Cancelled
from .cache import ShardCache, on_disk

_POLL_S = 0.05


class Schedule:
    """When a reader needs which shard: from the shard of every sample that it will read, in order, int (M,).

    Attributes:
        shards: the shard numbers, each once, in the order of their first use.
        first, last: int64, index of the first and of the last sample of each of them.
    """

    def __init__(self, shard_of_sample: NDArray[np.integer]) -> None:
        numbers, first, inverse = np.unique(shard_of_sample, return_index=True, return_inverse=True)
        last = np.zeros(len(numbers), dtype=np.int64)
        np.maximum.at(last, inverse, np.arange(len(inverse)))
        order = np.argsort(first)
        self.shards: list[int] = numbers[order].tolist()
        self.first: NDArray[np.int64] = first[order].astype(np.int64)
        self.last: NDArray[np.int64] = last[order]

    def __len__(self) -> int:
        return len(self.shards)

    def may_fetch(self, entry: int, done: int, sizes: NDArray[np.int64], ahead: int, limit: int) -> bool:
        """Whether the shard of `entry` may be fetched once `done` samples have been read.

        It may if fewer than `ahead` shards before it wait to be begun, and if it fits `limit` bytes together with all
        those before it that are still needed: fetching must not evict what this reader is about to read.
        """
        waiting = entry - int(np.searchsorted(self.first, done))
        needed = sizes[: entry + 1][self.last[: entry + 1] >= done].sum()
        return waiting < ahead and int(needed) <= limit


class Prefetcher:
    """A thread that keeps at most `ahead` shards ready for a reader; `done` is how many samples that has read.

    A shard that cannot be fetched is passed over: the reader meets the error when, and only if, it comes to it.
    """

    def __init__(self, cache: ShardCache, shards: Sequence[Shard], schedule: Schedule, ahead: int) -> None:
        self.done = 0
        self._cache = cache
        self._wanted = [shards[number] for number in schedule.shards]
        self._schedule = schedule
        self._ahead = ahead
        self._stop = Event()
        self._thread = Thread(target=self._run, name="shard-prefetch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give up what is not fetched yet; a transfer under way ends at its next chunk."""
        self._stop.set()

    def _run(self) -> None:
        sizes = np.array([on_disk(shard.bytes) for shard in self._wanted], dtype=np.int64)
        for entry, shard in enumerate(self._wanted):
            while not self._schedule.may_fetch(entry, self.done, sizes, self._ahead, self._cache.limit):
                if self._stop.wait(_POLL_S):
                    return
            if self.done > self._schedule.last[entry]:
                continue
            try:
                self._cache.fetch(shard, wait=False, cancelled=self._stop.is_set)
            except Cancelled:
                return
            except DataError:
                continue
