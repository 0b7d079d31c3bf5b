"""Where the checkpoints of a trial lie: the latest and the best one, on any file system that pyarrow knows.

Ours, beside Ray Train's own: a checkpoint within an epoch must neither wait for all ranks nor pass for the best epoch.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from .checkpoint import FOLDER, SUFFIX

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
        self._root = path.rstrip("/")
        self._folder = f"{self._root}/{FOLDER}"
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
        self._write_whole(self.where(name), content)
        for entry in self._fs.get_file_info(self._selector):
            if entry.base_name not in keep | {name}:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.delete_file(entry.path)

    def write_beside(self, name: str, content: bytes) -> None:
        """Write or replace a file beside the checkpoints.

        Raises:
            OSError: it cannot be written.
        """
        self._fs.create_dir(self._root, recursive=True)
        self._write_whole(f"{self._root}/{name}", content)

    def _write_whole(self, path: str, content: bytes) -> None:
        with self._fs.open_output_stream(path + _PARTIAL) as stream:
            stream.write(content)
        self._fs.move(path + _PARTIAL, path)
