"""A folder that all nodes see, on any file system that pyarrow knows. Without torch and Ray."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...datasets import one_line
from ..errors import NameTakenError, UserError

_PARTIAL = ".partial"
OWNER_FILE = "effnet-uid"
"""Says whose a folder is."""


class Storage:
    """Files below one folder.

    Args:
        root: the folder, or its URL (s3://, gs://, hdfs://, file://).

    Raises:
        UserError: the URL is none that pyarrow knows.
        OSError: (any method) the storage refuses or cannot be reached.
    """

    def __init__(self, root: str) -> None:
        from pyarrow import ArrowException, fs

        self._kinds = fs
        if "://" in root:
            try:
                self._fs, path = fs.FileSystem.from_uri(root)
            except (ArrowException, ValueError) as error:
                raise UserError(f"storage {root}: {one_line(error)}") from None
        else:
            self._fs, path = fs.LocalFileSystem(), str(Path(root).absolute())
        self.address = root.rstrip("/")
        self._root = path.rstrip("/")

    def where(self, name: str) -> str:
        """The address of a file, for people."""
        return f"{self._root}/{name}"

    def names(self, folder: str = "") -> list[str]:
        """What a folder holds, sorted; nothing where there is none."""
        selector = self._kinds.FileSelector(self.where(folder).rstrip("/"), allow_not_found=True)
        return sorted(entry.base_name for entry in self._fs.get_file_info(selector))

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `FileNotFoundError` where there is none."""
        with self._fs.open_input_stream(self.where(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file, which appears whole or not at all, and survives the machine's loss of power."""
        path = self.where(name)
        folder = path.rpartition("/")[0]
        self._fs.create_dir(folder, recursive=True)
        with self._fs.open_output_stream(path + _PARTIAL) as stream:
            stream.write(content)
        if isinstance(self._fs, self._kinds.LocalFileSystem):
            _sync(path + _PARTIAL)
        self._fs.move(path + _PARTIAL, path)
        if isinstance(self._fs, self._kinds.LocalFileSystem):
            _sync(folder)

    def delete(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self.where(name))

    def exists(self) -> bool:
        """Whether anything is at the address: the folder, or a file."""
        return bool(self._fs.get_file_info(self._root).type != self._kinds.FileType.NotFound)

    def claim(self, uid: str) -> None:
        """Make the folder the one of the experiment `uid`.

        Raises:
            NameTakenError: it is another one's, or holds files of none that is known.
            UserError: it cannot be read or written.
        """
        try:
            if OWNER_FILE in (names := self.names()):
                if self.read(OWNER_FILE).decode(errors="replace") != uid:
                    raise NameTakenError(f"storage {self.address} is another experiment's; choose another --name")
            elif {"trials", "tune"} & set(names):
                raise NameTakenError(f"storage {self.address} holds an older experiment; choose another --name")
            else:
                self.write(OWNER_FILE, uid.encode())
        except OSError as error:
            raise UserError(f"storage {self.address}: {one_line(error)}") from None


def _sync(path: str) -> None:
    """Have a local file, or the entries of a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
