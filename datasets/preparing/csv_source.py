"""CSV files as a source of images: one row per image, with its path, its label and perhaps its split."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..manifest import TEST, TRAIN, VAL
from .names import class_name, class_order, split_called
from .sources import Record, Source, file_record, require_known_classes
from .tables import TableRow, read_csv
from .workfolder import Note

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True)
class Columns:
    """The names of a CSV's columns; the one of the split may be absent from the file."""

    path: str = "path"
    label: str = "label"
    split: str = "split"


class ListedImage(NamedTuple):
    """An image that a table lists: the line that does, its file, its class and its split (empty: not said)."""

    table: Path
    line: int
    path: Path
    class_name: str
    split: str

    @property
    def where(self) -> str:
        return f"{self.table} line {self.line}"


def is_csv(path: Path) -> bool:
    """Whether the name of `path` is that of a CSV file: .csv or .tsv."""
    return path.suffix.lower() in (".csv", ".tsv")


def csv_source(path: Path, columns: Columns | None = None, name: str | None = None, note: Note | None = None) -> Source:
    """The images that a CSV with a header row lists; paths are relative to the CSV's folder.

    Fields are separated by commas, semicolons or tabs; the text is UTF-8, or UTF-16 with a byte-order mark. Splits may
    have any of the names that folders may have. Without a split a row is of "train". Classes are in natural order.

    Args:
        note: told how many rows say no split, where others do.

    Raises:
        DataError: unreadable, a column is missing or there twice, a row without path or label, an unknown split, a file
            that is not there or listed twice, or a validation class that training does not have; the message names the
            line.
    """
    columns = columns or Columns()
    rows = read_csv(path, (columns.path, columns.label), (columns.split,))
    images = [listed_image(path, row, columns, path.parent) for row in rows]
    if not images:
        raise DataError(f"{path}: no rows below its header; list one image per row")
    blank = sum(not image.split for image in images)
    if note is not None and 0 < blank < len(images):
        note(f"{path}: {blank:,} of {len(images):,} rows name no {columns.split}: they are train")
    return listed_source(path, images, name or path.stem)


def listed_image(table: Path, row: TableRow, columns: Columns, folder: Path) -> ListedImage:
    """The image of a row, its path relative to `folder`. Raises DataError for a row that does not name one."""
    where = f"{table} line {row.line}"
    image, label, named = (row.cells.get(column, "") for column in (columns.path, columns.label, columns.split))
    if not image or not label:
        missing = columns.label if image else columns.path
        raise DataError(f"{where}: no {missing}; fill it in or remove the row")
    for cell in (image, label):
        if _CONTROL.search(cell):
            raise DataError(f"{where}: {cell[:80]!r} holds a line break or another control character; remove it")
    if named and split_called(named) is None:
        raise DataError(f"{where}: {columns.split} {named!r}; it must be train, val or test")
    return ListedImage(table, row.line, _file(where, folder, image), class_name(label), split_called(named) or "")


def _file(where: str, folder: Path, image: str) -> Path:
    """The file that a table means, on whatever system it was written."""
    if _DRIVE.match(image):
        raise DataError(f"{where}: {image}: a path on a Windows drive; make it relative to the folder of the table")
    path = folder / image
    if "\\" in image and not os.path.lexists(path):
        return folder / image.replace("\\", "/")
    return path


def listed_source(
    where: Path, images: Iterable[ListedImage], name: str, ignored: Mapping[str, tuple[str, ...]] | None = None
) -> Source:
    """The source of images that tables list, in their order; `where` names it in messages.

    Raises:
        DataError: a file is not there or listed twice, there is none of train, or a class that train does not have.
    """
    splits: dict[str, list[Record]] = {split: [] for split in (TRAIN, VAL, TEST)}
    for number, image in enumerate(_listed_once(images)):
        try:
            record = file_record(number, image.path, image.class_name)
        except DataError as error:
            raise DataError(f"{image.where}: {error}") from error
        splits[image.split or TRAIN].append(record)
    if not splits[TRAIN]:
        raise DataError(f"{where}: no row of the split train")
    classes = class_order(record.class_name for record in splits[TRAIN])
    for split, records in splits.items():
        require_known_classes(where, split, (record.class_name for record in records), classes)
    found = {split: tuple(records) for split, records in splits.items() if records}
    return Source(name, classes, found, ignored or {})


def _listed_once(images: Iterable[ListedImage]) -> Iterator[ListedImage]:
    places = Places()
    seen: dict[str, ListedImage] = {}
    for image in images:
        before = seen.setdefault(places.of(image.path), image)
        if before is not image:
            there = f"line {before.line}" if before.table == image.table else before.where
            raise DataError(f"{image.where}: {image.path.name} is listed in {there} already; keep one")
        yield image


class Places:
    """Where files lie: one text for cat/0.jpg and dog/../cat/0.jpg. Links to folders are followed, links to files not.

    Hard links and links to files may well be there on purpose: they are told as duplicates.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """The place of a file."""
        if (folder := self._folders.get(path.parent)) is None:
            folder = self._folders[path.parent] = os.path.realpath(path.parent)
        return f"{folder}/{path.name}"
