"""Reading the bytes of single images from shards: local ones in place, remote ones through the node's cache."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..manifest import Manifest, Shard
from .cache import ShardCache, on_disk
from .prefetch import Prefetcher, Schedule

_MAX_OPEN = 128


class Sample(NamedTuple):
    """What was read: the id of the sample that lies at that place of its shard, and its encoded image."""

    sample_id: int
    data: bytes


class ShardReader:
    """Reads the image bytes of samples by id, keeping up to 128 shards open, the least recently used closed first.

    Safe over fork and pickle: every process opens its own files. Positioned reads share no file offset.

    Args:
        window: how many shards are read side by side; of remote ones as many are fetched ahead.
    """

    def __init__(self, manifest: Manifest, split: str, window: int = _MAX_OPEN) -> None:
        self._location = manifest.location
        self._root = manifest.root
        self._cache = ShardCache.of(manifest)
        self._split = manifest.split(split)
        self._first_ids = np.cumsum((0, *self._split.shard_samples))
        self._window = window
        if self._cache is not None:
            largest = sorted((on_disk(shard.bytes) for shard in self._split.shards), reverse=True)[:window]
            self._cache.require(sum(largest), f"{self._location}: {len(largest)} shards read side by side")
        self._prefetcher: Prefetcher | None = None
        self._open: OrderedDict[int, FileIO] = OrderedDict()
        self._pid = os.getpid()

    @contextmanager
    def following(self, sample_ids: Callable[[], NDArray[np.int64]]) -> Iterator[None]:
        """Fetch remote shards ahead while the samples `sample_ids()`, int64 (M,), are read in that order.

        Other samples may be read in between. Does nothing for local shards.
        """
        if self._cache is None:
            yield
            return
        schedule = Schedule(self._split.shard[sample_ids()])
        prefetcher = Prefetcher(self._cache, self._split.shards, schedule, self._window)
        self._prefetcher = prefetcher
        try:
            yield
        finally:
            prefetcher.stop()
            self._prefetcher = None
            self.close()

    def read(self, sample_id: int) -> Sample:
        """The encoded image of a sample, with the id that follows from where it was read; receipts are made of that.

        Raises:
            DataError: the shard is missing, truncated or replaced; the message names shard and key.
        """
        shard, offset, size = self._place(sample_id)
        try:
            data = self._pread(sample_id, shard, size, offset)
        except OSError as error:
            raise DataError(f"{self.where(sample_id)}: cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise DataError(f"{self.where(sample_id)}: {len(data):,} of {size:,} bytes; the shard is truncated")
        if self._prefetcher is not None:
            self._prefetcher.done += 1
        return Sample(self._sample_at(shard, offset), data)

    def _pread(self, sample_id: int, shard: int, size: int, offset: int) -> bytes:
        while True:
            file = self._file(sample_id, shard)
            data = os.pread(file.fileno(), size, offset)
            if self._cache is None or self._cache.is_whole(file, self._split.shards[shard]):
                return data
            self._open.pop(shard).close()  # the cache has made room for others

    def _place(self, sample_id: int) -> tuple[int, int, int]:
        """(number of the shard, offset, size) of a sample's image."""
        return int(self._split.shard[sample_id]), int(self._split.offset[sample_id]), int(self._split.size[sample_id])

    def _sample_at(self, shard: int, offset: int) -> int:
        first, end = self._first_ids[shard : shard + 2]
        return int(first + np.searchsorted(self._split.offset[first:end], offset))

    def where(self, sample_id: int) -> str:
        """Shard and key of a sample, as the beginning of an error message."""
        shard = self._split.shards[self._split.shard[sample_id]]
        return f"{self._location}/{shard.name}: sample {self._split.key(sample_id)}"

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, sample_id: int, shard: int) -> FileIO:
        if self._pid != os.getpid():  # a fork: these are copies of the parent's descriptors
            self.close()
            self._pid = os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        expected = self._split.shards[shard].bytes
        file = self._opened(self._split.shards[shard])
        if self._cache is None and (found := os.fstat(file.fileno()).st_size) != expected:
            file.close()
            problem = f"the shard has {found:,} bytes, the manifest says {expected:,}: truncated or replaced"
            raise DataError(f"{self.where(sample_id)}: {problem}; copy or prepare the dataset again")
        self._open[shard] = file
        if len(self._open) > (_MAX_OPEN if self._cache is None else min(self._window, _MAX_OPEN)):
            self._open.popitem(last=False)[1].close()
        return file

    def _opened(self, shard: Shard) -> FileIO:
        return FileIO(self._root / shard.name) if self._cache is None else self._cache.open(shard)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_prefetcher": None}
