"""Sources of images: the embedded digits, and folders of classes; an image is read only when it is written.

The order of a source's records depends on names alone, never on the order in which a file system lists them.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..decoding.images import EncodedImage, encode_file
from ..errors import DataError
from ..manifest import TRAIN, VAL
from .layout import Splits, understand
from .names import class_order, is_hidden, is_system
from .splitting import choose_validation
from .tree import ImageFile, named_as_image, walk

LEFT_OUT = "left out by the class map"


@dataclass(frozen=True)
class Record:
    """One image of a source; it can be pickled, so that another process reads it.

    Attributes:
        key: unique in the source.
        class_name: one of the source's classes.
        read: gives the image as it will be stored; raises DataError.
        bytes: size of its file, or about what it will take; decides where a shard ends.
        stamp: when its file was last changed, in ns; 0 where there is no file.
        path: its file, if it has one of its own.
    """

    key: str
    class_name: str
    read: Callable[[], EncodedImage]
    bytes: int = 0
    stamp: int = 0
    path: Path | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, for people: its file, or its key."""
        return self.key if self.path is None else str(self.path)


@dataclass(frozen=True)
class Source:
    """All records of a source by split, and its class names in the order of their labels.

    Sources that come without "val" get it from `with_validation`.

    Attributes:
        ignored: its files that are none of the data, relative to it, by the reason in a few words.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Record, ...]]
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def with_validation(self, fraction: float, seed: int, same: Mapping[str, int] | None = None) -> "Source":
        """This source, or, when it has no "val", the one with a stratified part of "train" as "val".

        Args:
            same: a number for each key, equal where the images are; equal images go to the same side.
        """
        if VAL in self.splits:
            return self
        train, val = stratified_split(self.splits[TRAIN], fraction, seed, same)
        if not val:
            raise DataError(f"{self.name}: no class has the two images that a validation split takes; add images")
        rest = {split: records for split, records in self.splits.items() if split != TRAIN}
        return replace(self, splits={TRAIN: train, VAL: val, **rest})

    def mapped(self, new_names: Mapping[str, str]) -> "Source":
        """The source with other class names, in the order of the mapping; classes of one new name are merged.

        Args:
            new_names: the new name of each class; an empty one leaves its images out.

        Raises:
            DataError: the mapping lacks a class, names one that is not there, or leaves none.
        """
        if unknown := sorted(set(self.classes) ^ set(new_names)):
            problem = "is not in the class map" if unknown[0] in self.classes else "of the class map is not in the data"
            raise DataError(f"{self.name}: class {unknown[0]!r} {problem}; map each class once (to nothing: left out)")
        classes = tuple(dict.fromkeys(new for new in new_names.values() if new))
        if not classes:
            raise DataError(f"{self.name}: the class map leaves no class")
        kept = {
            split: tuple(replace(r, class_name=new_names[r.class_name]) for r in records if new_names[r.class_name])
            for split, records in self.splits.items()
        }
        out = tuple(r.origin for records in self.splits.values() for r in records if not new_names[r.class_name])
        ignored = {**self.ignored, LEFT_OUT: out} if out else self.ignored
        return replace(self, classes=classes, splits=kept, ignored=ignored)


def require_fraction(fraction: float) -> None:
    """Raise DataError unless `fraction` leaves something for either side of a split."""
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must be between 0 and 1, got {fraction}")


def stratified_split(
    records: Sequence[Record], fraction: float, seed: int, same: Mapping[str, int] | None = None
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Split into (train, val): of each class `fraction` goes to val (see `choose_validation`).

    A pure function of keys, class names and the other arguments; both parts keep the order of `records`.

    Args:
        same: a number from 0 for each key, equal where the images are; they go to the same side.

    Raises:
        DataError: fraction is not strictly between 0 and 1.
    """
    require_fraction(fraction)
    by_key = sorted(records, key=lambda record: record.key)
    classes = {name: number for number, name in enumerate(sorted({record.class_name for record in records}))}
    labels = np.array([classes[record.class_name] for record in by_key], dtype=np.int64)
    groups = np.array([same[r.key] for r in by_key] if same else range(len(by_key)), dtype=np.int64)
    val = choose_validation(labels, groups, fraction, seed)
    chosen = {record.key for record, taken in zip(by_key, val, strict=True) if taken}
    return (
        tuple(record for record in records if record.key not in chosen),
        tuple(record for record in records if record.key in chosen),
    )


def digits_source() -> Source:
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), 8x8 px, as 32x32 gray JPEGs."""
    from sklearn.datasets import load_digits  # two seconds of import that only this source needs

    digits = load_digits()
    levels: NDArray[np.float64] = digits.images
    records = tuple(
        Record(f"digit-{number:04d}", str(int(label)), partial(_encode_digit, levels[number]))
        for number, label in enumerate(digits.target)
    )
    return Source("digits", tuple("0123456789"), {TRAIN: records})


def _encode_digit(levels: NDArray[np.float64]) -> EncodedImage:
    small = Image.fromarray(np.rint(levels * (255 / 16)).astype(np.uint8))
    buffer = BytesIO()
    small.resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return EncodedImage(buffer.getvalue(), "jpg", 32, 32)


def folder_source(root: Path, name: str | None = None, splits: Splits | None = None) -> Source:
    """A folder ROOT/CLASS/*.jpg, or ROOT/SPLIT/CLASS/*.jpg with its splits as they are (see `layout.understand`).

    Raises:
        DataError: a folder cannot be read, no class folders, a class without images, a validation class that training
            does not have, or a tree that can be understood in several ways.
    """
    tree, ignored = walk(root)
    layout = understand(tree, splits)
    for reason, images in layout.left_out.items():
        ignored[reason] += [image.path.relative_to(root).as_posix() for image in images]
    classes = class_order(layout.splits[TRAIN])
    for split, of_split in layout.splits.items():
        require_known_classes(root, split, of_split, classes)
    numbers = count()
    found = {
        split: tuple(_record(next(numbers), image, name) for name in classes for image in of_split.get(name, ()))
        for split, of_split in layout.splits.items()
    }
    return Source(name or root.resolve().name, classes, found, {why: tuple(files) for why, files in ignored.items()})


def file_record(number: int, path: Path, class_name: str) -> Record:
    """The record of an image file, the `number`-th of its source. Raises DataError if the file is not there."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _record(number, ImageFile(path, found.st_size, found.st_mtime_ns), class_name)


def _record(number: int, image: ImageFile, class_name: str) -> Record:
    read = partial(encode_file, image.path)
    return Record(record_key(number, image.path.stem), class_name, read, image.bytes, image.stamp, image.path)


def record_key(number: int, stem: str) -> str:
    """A WebDataset key: unique by its number, and still telling which file it was."""
    # No dot: webdataset ends the key at the first one. ASCII and short: a plain tar header holds 100 characters.
    return f"{number:08d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)[:48]}"


def require_known_classes(where: object, split: str, found: Iterable[str], classes: Collection[str]) -> None:
    """Raise DataError if a split has a class that training does not have."""
    if unknown := sorted(set(found) - set(classes)):
        problem = f"class {unknown[0]!r} of {split} is not in train"
        raise DataError(f"{where}: {problem}; the splits must share their classes")


def looks_like_classes(root: Path) -> bool:
    """Whether some image lies below a sub-folder of `root`: a raw folder of classes, not yet prepared."""
    return any(
        named_as_image(name)
        for folder in root.iterdir()
        if folder.is_dir() and not is_hidden(folder.name) and not is_system(folder.name)
        for _, _, names in os.walk(folder)
        for name in names
        if not is_hidden(name)
    )
