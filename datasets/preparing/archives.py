"""Unpacking an archive that came from outside: nothing lands outside the target folder, and it cannot fill the disk."""

import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import DataError

_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar")
ARCHIVE_SUFFIXES = (*_TAR_SUFFIXES, ".zip")
MAX_ARCHIVE_FILES = 20_000_000
LINK = "a link in the archive to no file of it"
_ZSTD = b"\x28\xb5\x2f\xfd"
_DISK_MARGIN = 2**30
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, RuntimeError)
# Where a zip does not say that a name is UTF-8, it is in whatever its maker's system used.
_UTF8_FLAG = 0x800

Left = dict[str, list[str]]
"""Members that were not unpacked, by the reason in a few words."""


def is_archive(path: Path) -> bool:
    """Whether the name of `path` is that of an archive that `extract` unpacks."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def archive_stem(path: Path) -> str:
    """The file name without its archive suffix: flower_photos.tgz → flower_photos."""
    suffix = next(s for s in ARCHIVE_SUFFIXES if path.name.lower().endswith(s))
    return path.name[: -len(suffix)]


def extract(archive: Path, target: Path, *, max_bytes: int | None = None, encoding: str | None = None) -> Left:
    """Unpack the regular files of a tar (also .gz, .bz2, .xz, .zst) or .zip into the existing folder `target`.

    A link to a file of the archive becomes that file once more. No link is ever made that leads to a folder or out of
    the archive: they are how archives escape.

    Args:
        max_bytes: cap on the unpacked size; default: what the disk of `target` has free, less 1 GiB.
        encoding: of the names in a .zip that does not say it, such as gbk; default: UTF-8.

    Raises:
        DataError: damaged archive, a member that would land outside `target`, more than the caps allow, or names in
            an unknown encoding.
    """
    limit = max(shutil.disk_usage(target).free - _DISK_MARGIN, 0) if max_bytes is None else max_bytes
    budget = _Budget(archive, limit)
    try:
        if archive.name.lower().endswith(".zip"):
            return _extract_zip(archive, target, budget, encoding)
        return _extract_tar(archive, target, budget)
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


def _extract_tar(archive: Path, target: Path, budget: _Budget) -> Left:
    left: Left = {}
    links: list[tuple[str, str]] = []
    with _opened_tar(archive) as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header, 450 bytes each
            # The filter looks at every member, also at those left out: an archive that tries to escape is refused
            # whole.
            if tarfile.data_filter(member, str(target)) is None or member.isdir():
                continue
            if member.isreg():
                budget.spend(member.size)
                tar.extract(member, target, filter="data")
            elif member.islnk():
                links.append((member.name, member.linkname))
            else:  # a symbolic link; the filter refuses devices
                links.append((member.name, posixpath.join(posixpath.dirname(member.name), member.linkname)))
    _join_links(target, links, budget, left)
    return left


@contextmanager
def _opened_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        zstd = file.read(len(_ZSTD)) == _ZSTD
        file.seek(0)
        stream: IO[Any] = _unpacked_zstd(archive, file) if zstd else file
        # As a stream: tarfile then reads no member's header again, of which it is to keep none.
        with tarfile.open(fileobj=stream, mode="r|" if zstd else "r|*") as tar:
            yield tar


def _unpacked_zstd(archive: Path, file: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard  # optional; Python has its own from 3.14 on
    except ImportError as error:
        hint = "pip install 'effnet-cluster[prepare]', or unpack it"
        raise DataError(f"{archive}: .zst needs a package: {hint}") from error
    reader: IO[bytes] = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return reader


def _extract_zip(archive: Path, target: Path, budget: _Budget, encoding: str | None) -> Left:
    left: Left = {}
    links: list[tuple[str, str]] = []
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            info.filename = name = _name(archive, info, encoding)
            path = PurePosixPath(name)
            # zipfile would quietly drop the dots and write the file elsewhere; an archive with such names is not
            # trusted.
            if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
                raise DataError(f"{archive}: unsafe member {name!r}; do not unpack archives of this origin")
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                to = zipped.read(info).decode(errors="replace") if info.file_size <= 4096 else ""
                links.append((name, posixpath.join(posixpath.dirname(name), to)))
            else:
                budget.spend(info.file_size)
                zipped.extract(info, target)
    _join_links(target, links, budget, left)
    return left


def _name(archive: Path, info: zipfile.ZipInfo, encoding: str | None) -> str:
    name = info.filename
    if not info.flag_bits & _UTF8_FLAG and not name.isascii():
        raw = name.encode("cp437")  # what zipfile has made of the bytes
        try:
            name = raw.decode(encoding or "utf-8")
        except (UnicodeDecodeError, LookupError) as error:
            hint = "say what its names are in, such as --name-encoding gbk"
            raise DataError(f"{archive}: the name {raw!r} is not {encoding or 'UTF-8'}; {hint}") from error
    return name.replace("\\", "/")


def _join_links(target: Path, links: list[tuple[str, str]], budget: _Budget, left: Left) -> None:
    """Let the links' names be files too; those that lead to other links are tried until none is left that works."""
    while links:
        waiting = [link for link in links if not _join(target, *link, budget)]
        if len(waiting) == len(links):
            left.setdefault(LINK, []).extend(name for name, _ in waiting)
            return
        links = waiting


def _join(target: Path, name: str, to: str, budget: _Budget) -> bool:
    # `target` holds regular files and folders alone, so a path without dots stays within it.
    path, origin = (posixpath.normpath(one) for one in (name, to))
    if any(one.startswith(("/", "../")) or one in ("..", ".") for one in (path, origin)):
        return False
    if not (target / origin).is_file():
        return False
    budget.spend(0)
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    (target / path).unlink(missing_ok=True)
    os.link(target / origin, target / path)
    return True
