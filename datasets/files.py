"""Files that several processes write: replaced in one step, and locked between processes."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file (text in UTF-8) such that a reader sees the old content or the new one, never a part of it.

    Raises:
        OSError: the disk is full, or the folder is missing or cannot be written.
    """
    with replacing(path) as fresh:
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path beside `path` to write a file to, which takes the place of `path` when the block ends.

    An error within the block removes that file, and `path` stays as it was.
    """
    # The name is this thread's own: a process that was given up must not write into the file of the one that took over.
    fresh = path.with_name(f".{path.name}.{os.uname().nodename}-{threading.get_native_id()}")
    try:
        yield fresh
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which is made if need be; waits while another process or thread holds it.

    The kernel frees the lock when the process ends, in whatever way. The file stays: removing it would let two hold it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        lock(descriptor)
        yield
    finally:
        unlock(descriptor)


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file; without `wait`, whether nobody else holds its lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Free the lock of an open file, and close it."""
    # Not by closing alone: a process forked in the meantime has a copy of the descriptor, which would keep the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that stands at `path` now: a lock file can be renamed or removed by others."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
