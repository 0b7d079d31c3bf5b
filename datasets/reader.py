"""Positioned reads of image bytes from local shards."""

import os
from collections import OrderedDict
from io import FileIO
from typing import Any

from .errors import DataError
from .manifest import Manifest

_MAX_OPEN = 128


class ShardReader:
    """Reads the image bytes of samples by id, keeping up to 128 shards open, the least recently used closed first.

    Safe over fork and pickle: every process opens its own files. Positioned reads share no file offset.
    """

    def __init__(self, manifest: Manifest, split: str) -> None:
        self._root = manifest.root
        self._split = manifest.split(split)
        self._open: OrderedDict[int, FileIO] = OrderedDict()
        self._pid = os.getpid()

    def read(self, sample_id: int) -> bytes:
        """The encoded image of a sample.

        Raises:
            DataError: the shard is missing, truncated or replaced; the message names shard and key.
        """
        try:
            size = int(self._split.size[sample_id])
            data = os.pread(self._file(sample_id).fileno(), size, int(self._split.offset[sample_id]))
        except OSError as error:
            raise DataError(f"{self.where(sample_id)}: cannot be read: {error.strerror or error}") from error
        if len(data) != size:
            raise DataError(f"{self.where(sample_id)}: {len(data):,} of {size:,} bytes; the shard is truncated")
        return data

    def where(self, sample_id: int) -> str:
        """Shard and key of a sample, as the beginning of an error message."""
        shard = self._split.shards[self._split.shard[sample_id]]
        return f"{self._root / shard.name}: sample {self._split.key(sample_id)}"

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, sample_id: int) -> FileIO:
        if self._pid != os.getpid():  # a fork: these are copies of the parent's descriptors
            self.close()
            self._pid = os.getpid()
        shard = int(self._split.shard[sample_id])
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        expected = self._split.shards[shard].bytes
        file = FileIO(self._root / self._split.shards[shard].name)
        if (found := os.fstat(file.fileno()).st_size) != expected:
            file.close()
            problem = f"the shard has {found:,} bytes, the manifest says {expected:,}: truncated or replaced"
            raise DataError(f"{self.where(sample_id)}: {problem}; copy or prepare the dataset again")
        self._open[shard] = file
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}
