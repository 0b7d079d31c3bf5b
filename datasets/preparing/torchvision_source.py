"""Data sets of torchvision as a source: those of the EfficientNet paper, from files that are on disk already.

The splits are those of the paper's Table 6 (Tan and Le 2019) and of the transfer literature before it (Kornblith et
al. 2019). "train" is everything meant for training: for Flowers102 and FGVCAircraft train + val. "val" is the official
test set, for ImageNet the official validation set. Birdsnap is not in torchvision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..decoding.images import EncodedImage
from ..errors import DataError, one_line
from ..manifest import TRAIN, VAL
from .labels import unique_names
from .names import class_name
from .sources import Record, Source, file_record, record_key

PREFIX = "torchvision:"

_Arguments = Mapping[str, str | bool]


@dataclass(frozen=True)
class _Known:
    """A class of torchvision.datasets and the arguments that give its training and its validation images."""

    name: str
    train: Sequence[_Arguments]
    val: Sequence[_Arguments]


_KNOWN = {
    known.name.lower(): known
    for known in (
        _Known("CIFAR10", [{"train": True}], [{"train": False}]),
        _Known("CIFAR100", [{"train": True}], [{"train": False}]),
        _Known("Flowers102", [{"split": "train"}, {"split": "val"}], [{"split": "test"}]),
        _Known("StanfordCars", [{"split": "train"}], [{"split": "test"}]),
        _Known("FGVCAircraft", [{"split": "trainval"}], [{"split": "test"}]),
        _Known("OxfordIIITPet", [{"split": "trainval"}], [{"split": "test"}]),
        _Known("Food101", [{"split": "train"}], [{"split": "test"}]),
        _Known("ImageNet", [{"split": "train"}], [{"split": "val"}]),
    )
}
_CIFAR = ("CIFAR10", "CIFAR100")


class _Image(NamedTuple):
    """A file, or the pixels of an image that has none (uint8, (H, W, 3)), and its label."""

    image: Path | NDArray[np.uint8]
    label: int


def is_torchvision(reference: str) -> bool:
    """Whether `reference` has the form torchvision:NAME@FOLDER."""
    return reference.startswith(PREFIX)


def torchvision_source(reference: str, name: str | None = None) -> Source:
    """The data set `torchvision:NAME@FOLDER`, FOLDER being what torchvision calls its root; nothing is downloaded.

    Labels and class names are torchvision's. Files are taken as they are; CIFAR's pixels become PNG.

    Raises:
        DataError: another form or name, torchvision is not installed, or it does not find the files.
    """
    known, root = _parsed(reference)
    where = f"{PREFIX}{known.name}@{root}"
    if known.name == "ImageNet":
        _require_unpacked_imagenet(where, root)
    opened = {split: [_opened(where, known, root, a) for a in getattr(known, split)] for split in (TRAIN, VAL)}
    for split, parts in opened.items():
        if not any(map(len, parts)):
            raise DataError(f"{where}: no images for {split}")
    classes = _class_names(opened[TRAIN][0])
    numbers = iter(range(sum(len(part) for parts in opened.values() for part in parts)))
    splits = {
        split: tuple(_record(next(numbers), image, classes) for part in parts for image in _images(where, known, part))
        for split, parts in opened.items()
    }
    return Source(name or known.name.lower(), classes, splits)


def _parsed(reference: str) -> tuple[_Known, Path]:
    named, at, folder = reference.removeprefix(PREFIX).partition("@")
    names = ", ".join(known.name for known in _KNOWN.values())
    if named.lower() not in _KNOWN:
        raise DataError(f"{reference}: no such data set; {PREFIX}NAME@FOLDER knows {names}")
    if not at or not folder:
        raise DataError(f"{reference}: say where its files are: {PREFIX}{_KNOWN[named.lower()].name}@FOLDER")
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return _KNOWN[named.lower()], root


def _opened(where: str, known: _Known, root: Path, arguments: _Arguments) -> Any:
    import torchvision.datasets  # not before it is needed: it imports torch

    kind = getattr(torchvision.datasets, known.name)
    # ImageNet knows no `download`, the CIFARs and the pets no `loader`: with `str` for a loader the others give paths.
    options: dict[str, Any] = dict(arguments) if known.name == "ImageNet" else {**arguments, "download": False}
    if known.name not in (*_CIFAR, "OxfordIIITPet"):
        options["loader"] = str
    try:
        return kind(str(root), **options)
    except Exception as error:  # each data set fails in its own way on files that are missing or damaged
        reason = one_line(error).removesuffix(" You can use download=True to download it").rstrip(".")
        hint = "lay the files out as torchvision does"
        raise DataError(f"{where}: {type(error).__name__}: {reason}; {hint}") from error


def _require_unpacked_imagenet(where: str, root: Path) -> None:
    # torchvision would unpack the archives into the user's folder, 150 GB of them.
    for name in ("meta.bin", "train", "val"):
        if not (root / name).exists():
            hint = "torchvision.datasets.ImageNet(FOLDER, split) unpacks it once for each split"
            raise DataError(f"{where}: no {name} there; {hint}")


def _class_names(data: Any) -> tuple[str, ...]:
    """Unique names in the order of the labels. ImageNet's classes have several names each, and there are two cranes."""
    names = [class_name(name if isinstance(name, str) else ", ".join(name)) for name in data.classes]
    return unique_names(names, getattr(data, "wnids", [str(number) for number in range(len(names))]))


def _images(where: str, known: _Known, data: Any) -> Iterator[_Image]:
    if known.name in _CIFAR:
        yield from (_Image(pixels, int(label)) for pixels, label in zip(data.data, data.targets, strict=True))
    elif known.name == "OxfordIIITPet":
        # It has no public way to a file's path.
        if not hasattr(data, "_images") or not hasattr(data, "_labels"):
            raise DataError(f"{where}: this torchvision hides the pets' files; install another release of it")
        yield from (_Image(Path(path), int(label)) for path, label in zip(data._images, data._labels, strict=True))
    else:
        for number in range(len(data)):
            path, label = data[number]
            yield _Image(Path(path), int(label))


def _record(number: int, image: _Image, classes: Sequence[str]) -> Record:
    class_name = classes[image.label]
    if isinstance(image.image, Path):
        return file_record(number, image.image, class_name)
    pixels = image.image
    return Record(record_key(number, class_name), class_name, partial(_encode_pixels, pixels), pixels.nbytes)


def _encode_pixels(pixels: NDArray[np.uint8]) -> EncodedImage:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return EncodedImage(buffer.getvalue(), "png", pixels.shape[1], pixels.shape[0])
