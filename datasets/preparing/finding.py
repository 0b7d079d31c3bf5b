"""Finding the shards of each split in a folder: by the user's patterns, or by the names of files and folders."""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from ..manifest import TEST, TRAIN, VAL
from .archives import ARCHIVE_SUFFIXES
from .names import is_hidden, is_system, split_within
from .workfolder import Note

_OPTIONS = "say which shards are whose: --train PATTERN, --val PATTERN, --test PATTERN"
_SHOWN = 6
_SHARD_SUFFIX = ".tar"

Shards = dict[str, list[Path]]
"""The shards of each split, sorted by their paths."""


def find_shards(folder: Path, patterns: Mapping[str, str] | None = None, note: Note | None = None) -> Shards:
    """The shards in `folder` by split.

    Without patterns all .tar files in and below it count. Either their folders are called like splits
    (train/, Validation/), or all their names tell one (x-train-000.tar), or none does: then all are "train".

    Args:
        patterns: glob patterns below `folder` by split.
        note: told which compressed archives are not read.

    Raises:
        DataError: no shards of train, a pattern that leaves the folder or matches nothing, a shard in two splits or no
            file, or names that leave a doubt; the message shows what was found.
    """
    found = _named(folder, note) if patterns is None else _matching(folder, patterns)
    taken: dict[tuple[int, int], tuple[Path, str]] = {}
    for split, paths in found.items():
        for path in paths:
            before, other = taken.setdefault(_identity(path), (path, split))
            if other != split:
                same = "matches the patterns of both" if before == path else f"is the same file as {before}, of both"
                raise DataError(f"{path}: {same} {other} and {split}")
    return found


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: no regular file; remove it")
    return status.st_dev, status.st_ino


def _matching(folder: Path, patterns: Mapping[str, str]) -> Shards:
    if TRAIN not in patterns:
        raise DataError(f"{folder}: no pattern for the split {TRAIN!r}")
    found: Shards = {}
    for split, pattern in patterns.items():
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise DataError(f"pattern {pattern!r} of {split}: must stay below {folder}")
        found[split] = sorted(path for path in folder.glob(pattern) if not path.is_dir())
        if not found[split]:
            raise DataError(f"{folder}: no shards match {pattern!r}, the pattern of {split}")
    return found


def _named(folder: Path, note: Note | None) -> Shards:
    tars = _tars(folder, note)
    if not tars:
        raise DataError(f"{folder}: no shards (*{_SHARD_SUFFIX}) in it or below")
    inside = [path.relative_to(folder) for path in tars]
    by_name = [split_within(path.stem) for path in inside]
    folders = [_split_folder(path) for path in inside]
    splits: list[str | None]
    if any(folders):
        if not all(folders):
            raise _ambiguous(folder, inside, "some shards are in folders of splits, others are not")
        splits = [split_within(path.name) if path else None for path in folders]
        if any(_splits_said(path) != {split} for path, split in zip(inside, splits, strict=True)):
            raise _ambiguous(folder, inside, "a shard's folder and name, or two folders, tell different splits")
        if len(set(folders)) > len(set(splits)):
            raise _ambiguous(folder, inside, "several folders are of the same split")
    elif all(by_name):
        splits = by_name
    elif any(by_name):
        raise _ambiguous(folder, inside, "some shards are named after a split, others are not")
    elif any(len(path.parts) > 1 for path in inside):
        raise _ambiguous(folder, inside, "some shards are in folders that are no splits")
    else:
        splits = [TRAIN] * len(tars)
    found = {split: [p for p, of in zip(tars, splits, strict=True) if of == split] for split in (TRAIN, VAL, TEST)}
    if not found[TRAIN]:
        raise _ambiguous(folder, inside, "no shard is of train")
    return {split: paths for split, paths in found.items() if paths}


def _split_folder(path: Path) -> Path | None:
    """The first folder on the way to a shard that is called like a split."""
    return next((parent for parent in reversed(path.parents) if split_within(parent.name)), None)


def _splits_said(path: Path) -> set[str]:
    """The splits that a shard's name and its folders tell."""
    return {split for name in (*path.parts[:-1], path.stem) if (split := split_within(name))}


def _tars(folder: Path, note: Note | None) -> list[Path]:
    """All .tar files in a folder and below, hidden ones excepted. Raises DataError if a folder cannot be read."""
    files = sorted(_files(folder))
    compressed = [path for path in files if path.name.lower().endswith(ARCHIVE_SUFFIXES) and not _is_tar(path)]
    if compressed and note is not None:
        names = ", ".join(path.relative_to(folder).as_posix() for path in compressed[:_SHOWN])
        note(f"{folder}: {len(compressed):,} archives that are no plain tar are not read: {names}")
    return [path for path in files if _is_tar(path)]


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == _SHARD_SUFFIX


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from error

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        here = os.path.realpath(parent)
        folders[:] = [
            name
            for name in folders
            if not is_hidden(name) and not is_system(name) and not _is_above(Path(parent, name), here)
        ]
        yield from (Path(parent, name) for name in names if not is_hidden(name))


def _is_above(path: Path, here: str) -> bool:
    """Whether a folder is a link to one that `here` lies in: a loop."""
    return path.is_symlink() and os.path.commonpath([real := os.path.realpath(path), here]) == real


def _ambiguous(folder: Path, shards: Sequence[Path], problem: str) -> DataError:
    """What was found, in one line: the names of shards, as one where only their numbers differ."""
    counts: dict[str, int] = {}
    for path in shards:
        shown = path.with_name(re.sub("[0-9]+", "*", path.name)).as_posix()
        counts[shown] = counts.get(shown, 0) + 1
    listed = [f"{name} ({count:,})" for name, count in counts.items()]
    more = "" if len(listed) <= _SHOWN else f" and {len(listed) - _SHOWN:,} more"
    return DataError(f"{folder}: {problem}: {', '.join(listed[:_SHOWN])}{more}; {_OPTIONS}")
