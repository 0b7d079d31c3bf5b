"""Where the checkpoints of a trial lie: the latest and the best one, on any file system that pyarrow knows.

Ours, beside Ray Train's own: a checkpoint within an epoch must neither wait for all ranks nor pass for the best epoch.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import FOLDER, SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable

_PARTIAL = ".partial"


class CheckpointStore:
    """The checkpoints of one trial.

    Args:
        root: the trial's folder, or its URL (s3://, gs://, hdfs://, file://).
    """

    def __init__(self, root: str) -> None:
        from pyarrow import fs

        if "://" in root:
            self._fs, path = fs.FileSystem.from_uri(root)
        else:
            self._fs, path = fs.LocalFileSystem(), str(Path(root).absolute())
        self._folder = f"{path.rstrip('/')}/{FOLDER}"
        self._selector = fs.FileSelector(self._folder, allow_not_found=True)

    def names(self) -> list[str]:
        """The complete checkpoints, the earliest position first."""
        entries = self._fs.get_file_info(self._selector)
        return sorted(entry.base_name for entry in entries if entry.base_name.endswith(SUFFIX))

    def where(self, name: str) -> str:
        """The address of a checkpoint, for people."""
        return f"{self._folder}/{name}"

    def read(self, name: str) -> bytes:
        """The content of a checkpoint.

        Raises:
            OSError: it cannot be read.
        """
        with self._fs.open_input_stream(self.where(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes, keep: set[str]) -> None:
        """Add a checkpoint, which appears whole or not at all, then remove all others that `keep` does not name.

        Raises:
            OSError: it cannot be written; what was there is still there.
        """
        self._fs.create_dir(self._folder, recursive=True)
        partial = self.where(name + _PARTIAL)
        with self._fs.open_output_stream(partial) as stream:
            stream.write(content)
        self._fs.move(partial, self.where(name))
        for entry in self._fs.get_file_info(self._selector):
            if entry.base_name not in keep | {name}:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.delete_file(entry.path)


class Background:
    """One thread that does what training need not wait for, in the order in which it was asked to.

    An error of a task is raised by the next call.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._pending: list[Future[Any]] = []

    def submit(self, task: Callable[[], object]) -> None:
        """Do `task` after all that was submitted before; raises what one of those raised."""
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            future.result()
        self._pending.append(self._executor.submit(self._unless_failed, task, tuple(self._pending)))

    def wait(self) -> None:
        """Return when everything is done; raises what a task raised."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """`wait`, and end the thread."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    @staticmethod
    def _unless_failed(task: Callable[[], object], before: tuple[Future[Any], ...]) -> None:
        # A checkpoint must not say that its metrics are logged when they are not.
        if not any(future.exception() for future in before):
            task()
