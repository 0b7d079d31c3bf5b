"""Which image files a person means by the paths, folders and patterns of a command."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..datasets import DataError
from ..datasets.preparing.names import natural_key
from ..datasets.preparing.tree import walk


@dataclass
class ImagePaths:
    """What was found, in the order of the arguments.

    Attributes:
        found: each path with the reason why it is no image file; None if it may be one.
        ignored: files of folders that were left out, counted by the reason.
    """

    found: list[tuple[Path, str | None]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def files(self) -> list[Path]:
        """The files that may be images."""
        return [path for path, problem in self.found if problem is None]

    def add(self, path: Path) -> None:
        """Take a file, or the images in a folder and below."""
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            self._add_folder(path)
        elif stat.S_ISREG(mode):
            self.found.append((path, None))
        else:
            self.found.append((path, "is no file" if os.path.lexists(path) else "no such file"))

    def _add_folder(self, folder: Path) -> None:
        try:
            tree, ignored = walk(folder)
        except DataError as error:
            self.found.append((folder, reason(error, folder)))
            return
        self.ignored.update({why: len(files) for why, files in ignored.items()})
        self.found += [(image.path, None) for image in tree.below()] or [(folder, "a folder without images")]


def find_images(arguments: Iterable[Path]) -> ImagePaths:
    """Find the files that arguments mean: files, folders with all below them, and patterns such as `photos/*.jpg`.

    What exists is never a pattern: in `b[1]/*.jpg`, where there is a folder `b[1]`, only the file's name is one.
    """
    paths = ImagePaths()
    for argument in arguments:
        for path in _matches(argument):
            paths.add(path)
    return paths


def reason(error: DataError, path: Path) -> str:
    """What an error says of a file, without the file's name before it."""
    return str(error).removeprefix(f"{path}: ")


def _matches(argument: Path) -> Iterator[Path]:
    """What a pattern matches, in natural order; else the argument itself."""
    if os.path.lexists(argument):
        yield argument
        return
    there = next((folder for folder in argument.parents if os.path.lexists(folder)), Path())
    pattern = str(argument.relative_to(there))
    # Unlike `Path.glob` it leaves hidden files out, as a shell does.
    found = glob.glob(pattern, root_dir=there, recursive=True) if glob.has_magic(pattern) else []  # noqa: PTH207
    yield from (there / name for name in sorted(found, key=natural_key)) if found else [argument]


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # there is none, or no file can have that name
        return 0
