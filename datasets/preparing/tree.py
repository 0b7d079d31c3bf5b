"""A folder of images as it lies on the disk: which files are images, and why each other file is none of the data."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..decoding.images import SOURCE_EXTENSIONS, is_image
from ..errors import DataError
from .names import is_hidden, is_system, natural_key

HIDDEN, SYSTEM, NO_IMAGE = "hidden", "left by a system", "no image"
BROKEN_LINK, LINK_LOOP, SPECIAL = "a broken link", "a link to a folder above", "no regular file"

Ignored = defaultdict[str, list[str]]
"""Files that are none of the data, relative to the root, by the reason in a few words."""


class ImageFile(NamedTuple):
    """An image file: its path, its size in bytes, and when it was last changed, in ns."""

    path: Path
    bytes: int
    stamp: int


@dataclass
class Folder:
    """A folder with its images and visible sub-folders, each in natural order.

    Attributes:
        count: images in it and below.
    """

    path: Path
    images: list[ImageFile] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    count: int = 0

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def with_images(self) -> list["Folder"]:
        """The sub-folders that hold an image, at any depth."""
        return [folder for folder in self.folders if folder.count]

    def below(self) -> Iterator[ImageFile]:
        """All images in it and below."""
        yield from self.images
        for folder in self.folders:
            yield from folder.below()


def walk(root: Path) -> tuple[Folder, Ignored]:
    """Everything in `root`, and the files that are ignored. Links to files and folders are followed.

    Images are known by their extension, and where that tells nothing by their content. Files in hidden folders, and in
    those that systems leave behind, are ignored one by one.

    Raises:
        DataError: `root` is no folder, or a folder in it cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    ignored: Ignored = defaultdict(list)
    tree = Folder(root)
    try:
        _walk(tree, "", ignored, None, [_identity(root)])
    except RecursionError as error:
        raise DataError(
            f"{root}: its folders are nested hundreds of levels deep; lay them out as CLASS/*.jpg"
        ) from error
    return tree, ignored


def _walk(folder: Folder, below: str, ignored: Ignored, reason: str | None, above: list[tuple[int, int]]) -> None:
    for entry in _entries(folder.path, ignored_already=reason is not None):
        name = f"{below}{entry.name}"
        why = reason or (SYSTEM if is_system(entry.name) else HIDDEN if is_hidden(entry.name) else None)
        try:
            found = entry.stat()
        except OSError:
            # A missing picture is damage; a missing note is not.
            if why is None and named_as_image(entry.name):
                folder.images.append(ImageFile(Path(entry.path), 0, 0))
            else:
                ignored[why or BROKEN_LINK].append(name)
            continue
        if stat.S_ISDIR(found.st_mode):
            _enter(folder, Path(entry.path), name, ignored, why, above)
        elif why is None and not stat.S_ISREG(found.st_mode):
            ignored[SPECIAL].append(name)
        elif why is None and (named_as_image(entry.name) or _holds_image(Path(entry.path))):
            folder.images.append(ImageFile(Path(entry.path), found.st_size, found.st_mtime_ns))
        else:
            ignored[why or NO_IMAGE].append(name)
    folder.count = len(folder.images) + sum(inside.count for inside in folder.folders)


def _enter(
    folder: Folder, path: Path, name: str, ignored: Ignored, why: str | None, above: list[tuple[int, int]]
) -> None:
    if path.is_symlink() and _identity(path) in above:
        ignored[why or LINK_LOOP].append(name)
        return
    inside = Folder(path)
    _walk(inside, f"{name}/", ignored, why, [*above, _identity(path)])
    if why is None:
        folder.folders.append(inside)


def _entries(path: Path, *, ignored_already: bool) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        if ignored_already:  # lost+found belongs to root
            return []
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; its images would be missing") from error


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def named_as_image(name: str) -> bool:
    """Whether the name of a file has the extension of an image."""
    return Path(name).suffix.lower().removeprefix(".") in SOURCE_EXTENSIONS


def _holds_image(path: Path) -> bool:
    try:
        return is_image(path)
    except OSError:  # it cannot be read: told when it is to be stored
        return True
