"""A cache of remote shards: a folder of bounded size, shared by all ranks and loader workers of a node.

A shard is stored under its sha256: any number of datasets share the folder, and no name from outside becomes a path.
While it is downloaded it is SHA256.part. Who writes it holds a lock on that very file, which is gone with the process.
Space is reserved before the first byte arrives, and a file is emptied before it is removed: one that is only unlinked
would take its space for as long as a process has it open. So the disk never holds more than the limit.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..files import is_at, lock, locked, unlock
from ..manifest import Manifest, Shard
from ..remote import Cancelled, join, retrying, stream

DEFAULT_LIMIT = 32 * 2**30
"""Bytes of shards that a node keeps, if its disk has them."""

_DISK_SHARE = 0.8
_LOCK_FILE = ".lock"
_WAIT_S = 0.05
# Files take whole blocks of the disk.
_BLOCK_BYTES = 4096
# A shard that was read within so many seconds is in use, and so many seconds a download waits for shards to be unused.
# Readers that wait for each other, with a limit that is too small for them, then still go on, at this pace.
_IN_USE_S = 2.0
_PATIENCE_S = 10.0
_NOTED_S = 0.5


def default_limit(folder: Path) -> int:
    """32 GiB, or 80 % of what the disk of `folder` has for it, the shards that it already holds included; bytes."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    held = sum(file.bytes for file in _contents(folder)) if there == folder else 0
    return min(DEFAULT_LIMIT, int(_DISK_SHARE * (shutil.disk_usage(there).free + held)))


def on_disk(size: int) -> int:
    """Bytes of the disk that a file of `size` bytes takes."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


@dataclass(frozen=True)
class ShardCache:
    """The shards of the dataset at `address`, fetched into `folder` when needed; safe between threads and processes.

    Attributes:
        address: of the folder that holds the manifest.
        folder: on a local disk of this node; may be shared with other datasets.
        limit: bytes of the disk that the shards may take. Those opened longest ago are removed first, unless they were
            read just now. A copy that a process still has open is then empty: see `is_whole`.
    """

    address: str
    folder: Path
    limit: int

    @classmethod
    def of(cls, manifest: Manifest) -> "ShardCache | None":
        """The cache that a dataset's shards are read through; None for a local one."""
        remote = manifest.remote
        return cls(remote.address, manifest.root, remote.cache_limit) if remote else None

    def open(self, shard: Shard) -> FileIO:
        """The shard's local copy, open for reading; downloaded first if it is not here.

        Raises:
            DataError: it cannot be had, or is not what the manifest describes; the message names it.
        """
        while True:
            with suppress(FileNotFoundError):
                file = FileIO(self._path(shard))
                if os.fstat(file.fileno()).st_size == shard.bytes:
                    now = time.time_ns()
                    os.utime(file.fileno(), ns=(now, now - 1))
                    return file
                with file, locked(self.folder / _LOCK_FILE):
                    if is_at(file.fileno(), self._path(shard)):
                        _remove(self._path(shard))  # damaged from outside; fetch it again
            self.fetch(shard)

    def is_whole(self, file: FileIO, shard: Shard) -> bool:
        """Whether an open copy has not been emptied to make room; asked after reading it, which is noted as use."""
        status = os.fstat(file.fileno())
        if abs(time.time() - status.st_atime) > _NOTED_S:
            os.utime(file.fileno(), ns=(time.time_ns(), status.st_mtime_ns))
        return status.st_size == shard.bytes

    def fetch(self, shard: Shard, *, wait: bool = True, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Make the shard present.

        Args:
            wait: while another process downloads it, wait for that; otherwise return at once.
            cancelled: asked between chunks whether to give up.

        Raises:
            Cancelled: `cancelled` said so.
            DataError: as for `open`.
        """
        if on_disk(shard.bytes) > self.limit:
            raise DataError(
                f"{self._address(shard)}: {shard.bytes:,} bytes, the cache limit is {self.limit:,}; raise it"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._claimed(shard, wait) as part:
                if part is not None:
                    self._reserve(part, shard.bytes, cancelled)
                    self._download(shard, part, cancelled)
                    os.fsync(part)  # its name vouches for its content, also after a power failure
                    with locked(self.folder / _LOCK_FILE):  # a listing made during a rename may miss the file
                        now = time.time_ns()
                        os.utime(part, ns=(now, now))
                        self._part(shard).rename(self._path(shard))
        except OSError as error:
            reason = f"cannot be written: {error.strerror or error}; make room or lower the cache limit"
            raise DataError(f"{self.folder}: {reason}") from error

    def require(self, needed: int, what: str) -> None:
        """Raise DataError unless the `needed` bytes of `what` fit."""
        if needed > self.limit:
            problem = f"up to {needed:,} bytes, more than the cache limit of {self.limit:,}"
            raise DataError(f"{what}: {problem}; raise the limit or lower shuffle_block")

    @contextmanager
    def _claimed(self, shard: Shard, wait: bool) -> Iterator[int | None]:
        """The descriptor of the shard's locked .part file, or None if there is nothing to do."""
        part = self._lock_part(shard, wait)
        if part is None:
            yield None
            return
        try:
            yield part
        finally:
            # After the rename there is nothing; after a failure this frees what was reserved. Still locked here.
            if is_at(part, self._part(shard)):
                _remove(self._part(shard))
            unlock(part)

    def _lock_part(self, shard: Shard, wait: bool) -> int | None:
        while not self._path(shard).exists():
            descriptor = os.open(self._part(shard), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not lock(descriptor, wait=wait):
                os.close(descriptor)
                return None
            # The one before us may have renamed or removed the file that we waited for.
            if is_at(descriptor, self._part(shard)):
                if not self._path(shard).exists():
                    return descriptor
                self._part(shard).unlink()
            unlock(descriptor)
        return None

    def _reserve(self, part: int, size: int, cancelled: Callable[[], bool]) -> None:
        """Give `part` its full size, removing shards; waits while other downloads and shards in use fill the folder."""
        os.ftruncate(part, 0)  # what a killed process left
        begun = time.monotonic()
        while True:
            with locked(self.folder / _LOCK_FILE):
                if self._make_room(on_disk(size), time.monotonic() - begun > _PATIENCE_S):
                    os.posix_fallocate(part, 0, size)
                    return
            if cancelled():
                raise Cancelled
            time.sleep(_WAIT_S)

    def _make_room(self, size: int, impatient: bool) -> bool:
        found = sorted(_contents(self.folder))
        used, in_use = sum(file.bytes for file in found), False
        for file in found:
            if used + size <= self.limit:
                return True
            if file.path.suffix == ".tar":
                # What was fetched ahead outlives the shards before it, which are in use for a moment yet.
                if not impatient and (file.is_in_use or (in_use and not file.was_read)):
                    in_use = True
                    continue
                _remove(file.path)
                used -= file.bytes
            elif file.path.suffix == ".part" and _remove_abandoned(file.path):
                used -= file.bytes
        return used + size <= self.limit

    def _download(self, shard: Shard, part: int, cancelled: Callable[[], bool]) -> None:
        mismatches = 0

        def attempt() -> None:
            nonlocal mismatches
            hasher, received = hashlib.sha256(), 0
            for chunk in stream(self._address(shard), shard.bytes):
                if cancelled():
                    raise Cancelled
                received += len(chunk)
                if received > shard.bytes:
                    break
                hasher.update(chunk)
                _write(part, chunk, received - len(chunk))
            if received < shard.bytes:
                raise ConnectionError(f"{received:,} of {shard.bytes:,} bytes arrived")
            if received > shard.bytes or hasher.hexdigest() != shard.sha256:
                mismatches += 1
                found = hasher.hexdigest() if received == shard.bytes else "of a longer file"
                problem = f"differs from the manifest: sha256 {shard.sha256} expected, {found} found"
                if mismatches == 1:
                    raise ConnectionError(problem)  # damaged on the way, perhaps
                raise DataError(f"{self._address(shard)}: {problem}; copy or prepare the dataset again")

        retrying(self._address(shard), attempt)

    def _address(self, shard: Shard) -> str:
        return join(self.address, shard.name)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def _part(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.part"


def _remove(path: Path) -> None:
    """Remove a file and free its space now, also where a process has it open."""
    with suppress(FileNotFoundError):
        os.truncate(path, 0)
        path.unlink()


def _remove_abandoned(part: Path) -> bool:
    """Remove a .part file that nobody writes any more; whether it was one."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    if not lock(descriptor, wait=False):
        os.close(descriptor)
        return False
    _remove(part)  # while locked: who waits for it then sees that it is gone
    unlock(descriptor)
    return True


class _File(NamedTuple):
    """A file of the folder: when it came or was last opened and when it was last read, in ns; bytes on the disk."""

    opened: int
    read: int
    bytes: int
    path: Path

    @property
    def was_read(self) -> bool:
        return self.read > self.opened

    @property
    def is_in_use(self) -> bool:
        return self.was_read and abs(time.time_ns() - self.read) < _IN_USE_S * 1e9


def _contents(folder: Path) -> list[_File]:
    """Every file; the time of its last change tells when it was opened, that of its last access when it was read."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            taken = max(status.st_size, status.st_blocks * 512)
            found.append(_File(status.st_mtime_ns, status.st_atime_ns, taken, path))
    return found


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
