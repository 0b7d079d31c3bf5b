"""Unpacking an archive that came from outside: nothing lands outside the target folder, and it cannot fill the disk."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ..errors import DataError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".zip")
MAX_ARCHIVE_FILES = 20_000_000
_DISK_MARGIN = 2**30
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def is_archive(path: Path) -> bool:
    """Whether the name of `path` is that of an archive that `extract` unpacks."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def archive_stem(path: Path) -> str:
    """The file name without its archive suffix: flower_photos.tgz → flower_photos."""
    suffix = next(s for s in ARCHIVE_SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]


def extract(archive: Path, target: Path, *, max_bytes: int | None = None) -> None:
    """Unpack the regular files of a .tgz, .tar.gz, .tar or .zip into the existing folder `target`.

    Links and devices are left out: a picture never needs them and they are how archives escape.

    Args:
        max_bytes: cap on the unpacked size; default: what the disk of `target` has free, less 1 GiB.

    Raises:
        DataError: damaged archive, a member that would land outside `target`, or more than the caps allow.
    """
    limit = max(shutil.disk_usage(target).free - _DISK_MARGIN, 0) if max_bytes is None else max_bytes
    budget = _Budget(archive, limit)
    try:
        if archive.name.lower().endswith(".zip"):
            _extract_zip(archive, target, budget)
        else:
            _extract_tar(archive, target, budget)
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: unsafe member: {error}; do not unpack archives of this origin") from error
    except _DAMAGED as error:
        raise DataError(f"{archive}: damaged or not an archive ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked: {error.strerror or error}") from error


class _Budget:
    """Counts files and bytes before they are written, so that a bomb stops at the cap and not at a full disk."""

    def __init__(self, archive: Path, limit: int) -> None:
        self._archive = archive
        self._limit = limit
        self._bytes = 0
        self._files = 0

    def spend(self, size: int) -> None:
        self._bytes += size
        self._files += 1
        if self._bytes > self._limit:
            raise DataError(f"{self._archive}: unpacks to more than the {self._limit:,} bytes allowed; free disk space")
        if self._files > MAX_ARCHIVE_FILES:
            raise DataError(f"{self._archive}: holds more than the {MAX_ARCHIVE_FILES:,} files allowed")


def _extract_tar(archive: Path, target: Path, budget: _Budget) -> None:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            # The filter looks at every member, also at those left out: an archive that tries to escape is refused
            # whole.
            if tarfile.data_filter(member, str(target)) is not None and member.isreg():
                budget.spend(member.size)
                tar.extract(member, target, filter="data")


def _extract_zip(archive: Path, target: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            path = PurePosixPath(info.filename.replace("\\", "/"))
            # zipfile would quietly drop the dots and write the file elsewhere; an archive with such names is not
            # trusted.
            if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
                raise DataError(f"{archive}: unsafe member {info.filename!r}; do not unpack archives of this origin")
            if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
                budget.spend(info.file_size)
                zipped.extract(info, target)
