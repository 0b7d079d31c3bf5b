"""Sources of images: the embedded digits, and folders of classes; an image is read only when it is written.

The order of a source's records depends on names alone, never on the order in which a file system lists them.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..decoding.images import SOURCE_EXTENSIONS, EncodedImage, encode_file
from ..errors import DataError
from ..manifest import TEST, TRAIN, VAL
from ..philox import Domain, permutation

_VAL_NAMES = ("val", "valid", "validation")
_SPLIT_NAMES = frozenset({TRAIN, TEST, *_VAL_NAMES})


@dataclass(frozen=True)
class Record:
    """One image of a source; it can be pickled, so that another process reads it.

    Attributes:
        key: unique in the source.
        class_name: one of the source's classes.
        read: gives the image as it will be stored; raises DataError.
        bytes: size of its file, or about what it will take; decides where a shard ends.
        stamp: when its file was last changed, in ns; 0 where there is no file.
    """

    key: str
    class_name: str
    read: Callable[[], EncodedImage]
    bytes: int = 0
    stamp: int = 0


@dataclass(frozen=True)
class Source:
    """All records of a source by split, its class names in the order of their labels, and its files that are no images.

    Sources that come without splits have only "train"; `with_validation` takes "val" from it.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Record, ...]]
    ignored: int = 0

    def with_validation(self, fraction: float, seed: int) -> "Source":
        """This source, or, when it has no "val", the one with a stratified part of "train" as "val"."""
        if VAL in self.splits:
            return self
        train, val = stratified_split(self.splits[TRAIN], fraction, seed)
        if not val:
            raise DataError(f"{self.name}: no class has the two images that a validation split takes; add images")
        return Source(self.name, self.classes, {**self.splits, TRAIN: train, VAL: val}, self.ignored)


def require_fraction(fraction: float) -> None:
    """Raise DataError unless `fraction` leaves something for either side of a split."""
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must be between 0 and 1, got {fraction}")


def stratified_split(
    records: Sequence[Record], fraction: float, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Split into (train, val): of each class `fraction` goes to val, rounded, at least one to either side where it has
    two.

    A pure function of the keys, the class names, `fraction` and `seed`; both parts keep the order of `records`.

    Raises:
        DataError: fraction is not strictly between 0 and 1.
    """
    require_fraction(fraction)
    by_class: dict[str, list[str]] = {}
    for record in records:
        by_class.setdefault(record.class_name, []).append(record.key)
    chosen: set[str] = set()
    for number, class_name in enumerate(sorted(by_class)):
        keys = sorted(by_class[class_name])
        count = min(max(round(fraction * len(keys)), 1), len(keys) - 1)
        order = permutation(len(keys), Domain.SPLIT, seed, minor=number)
        chosen.update(keys[i] for i in order[:count])
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


def folder_source(root: Path, name: str | None = None) -> Source:
    """A folder ROOT/CLASS/*.jpg, or ROOT/{train,val|valid|validation,test}/CLASS/*.jpg with its splits as they are.

    Given train and test but no val, test is what there is to validate on and becomes "val". Files that are no images
    are counted; hidden files (.DS_Store, ._x) are not seen at all.

    Raises:
        DataError: no class folders, a class without images, or a validation class that training does not have.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folders = {folder.name: folder for folder in visible_folders(root)}
    ignored: Counter[str] = Counter()
    if TRAIN in folders and folders.keys() <= _SPLIT_NAMES:
        files = {split: _class_files(folder, ignored) for split, folder in _named_splits(root, folders).items()}
    else:
        files = {TRAIN: _class_files(root, ignored)}
    classes = tuple(files[TRAIN])
    for split, of_split in files.items():
        require_known_classes(root, split, of_split, classes)
    numbers = iter(range(sum(len(paths) for of_split in files.values() for paths in of_split.values())))
    splits = {
        split: tuple(
            file_record(next(numbers), path, class_name) for class_name, paths in of_split.items() for path in paths
        )
        for split, of_split in files.items()
    }
    return Source(name or root.resolve().name, classes, splits, ignored.total())


def file_record(number: int, path: Path, class_name: str) -> Record:
    """The record of an image file, the `number`-th of its source. Raises DataError if the file is not there."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    key = record_key(number, path.stem)
    return Record(key, class_name, partial(encode_file, path), found.st_size, found.st_mtime_ns)


def record_key(number: int, stem: str) -> str:
    """A WebDataset key: unique by its number, and still telling which file it was."""
    # No dot: webdataset ends the key at the first one. ASCII and short: a plain tar header holds 100 characters.
    return f"{number:08d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)[:48]}"


def require_known_classes(where: object, split: str, found: Iterable[str], classes: Collection[str]) -> None:
    """Raise DataError if a split has a class that training does not have."""
    if unknown := sorted(set(found) - set(classes)):
        problem = f"class {unknown[0]!r} of {split} is not in train"
        raise DataError(f"{where}: {problem}; the splits must share their classes")


def split_called(name: str) -> str | None:
    """The split that a source means by a name: "validation" is "val"; None where it is no split's name."""
    lower = name.lower()
    return VAL if lower in _VAL_NAMES else lower if lower in (TRAIN, TEST) else None


def visible_folders(root: Path) -> list[Path]:
    """The sub-folders of `root` by name, without hidden ones and the __MACOSX that macOS adds to archives."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "__MACOSX")


def content_root(root: Path) -> Path:
    """Step into wrapping folders, such as the flower_photos/ of flower_photos.tgz, to the one with the classes."""
    while len(inside := visible_folders(root)) == 1 and inside[0].name != TRAIN and visible_folders(inside[0]):
        root = inside[0]
    return root


def looks_like_classes(root: Path) -> bool:
    """Whether some image lies below a sub-folder of `root`: a raw folder of classes, not yet prepared."""
    return any(
        next((f for f in _files_below(folder) if _is_image_name(f)), None) is not None
        for folder in visible_folders(root)
    )


def _named_splits(root: Path, folders: Mapping[str, Path]) -> dict[str, Path]:
    named = {TRAIN: folders[TRAIN]}
    validation = [folders[name] for name in _VAL_NAMES if name in folders]
    if len(validation) > 1:
        names = " and ".join(folder.name for folder in validation)
        raise DataError(f"{root}: {names} both look like the validation split; keep one")
    if validation:
        named[VAL] = validation[0]
    if TEST in folders:
        named[TEST if validation else VAL] = folders[TEST]
    return named


def _class_files(root: Path, ignored: Counter[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in visible_folders(root):
        files = list(_files_below(folder))
        found[folder.name] = sorted(
            (f for f in files if _is_image_name(f)), key=lambda f: f.relative_to(root).as_posix()
        )
        ignored["files"] += len(files) - len(found[folder.name])
        if not found[folder.name]:
            raise DataError(f"{folder}: a class folder without images; add images or remove it")
    if not found:
        raise DataError(f"{root}: no class folders with images; it should hold CLASS/*.jpg")
    ignored["files"] += sum(f.is_file() and not f.name.startswith(".") for f in root.iterdir())
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in SOURCE_EXTENSIONS
