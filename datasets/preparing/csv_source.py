"""CSV files as a source of images: one row per image, with its path, its label and perhaps its split."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..manifest import TEST, TRAIN, VAL
from .sources import Record, Source, file_record, require_known_classes, split_called


@dataclass(frozen=True)
class Columns:
    """The names of a CSV's columns; the one of the split may be absent from the file."""

    path: str = "path"
    label: str = "label"
    split: str = "split"


@dataclass(frozen=True)
class _Row:
    line: int
    path: Path
    label: str
    split: str


def is_csv(path: Path) -> bool:
    """Whether the name of `path` is that of a CSV file."""
    return path.suffix.lower() == ".csv"


def csv_source(path: Path, columns: Columns | None = None, name: str | None = None) -> Source:
    """The images that a CSV with a header row lists; paths are relative to the CSV's folder.

    Without a column for the split all images are "train". Given train and test but no val, test becomes "val", as for
    folders. Classes are sorted, as numbers where all of them are numbers.

    Raises:
        DataError: unreadable, a column is missing, a row without path or label, an unknown split, a file that is not
            there or listed twice, or a validation class that training does not have; the message names the line.
    """
    columns = columns or Columns()
    rows = list(_rows(path, columns))
    if not rows:
        raise DataError(f"{path}: no rows below its header; list one image per row")
    _require_listed_once(path, rows)
    splits: dict[str, list[Record]] = {split: [] for split in (TRAIN, VAL, TEST)}
    for number, row in enumerate(rows):
        try:
            splits[row.split].append(file_record(number, row.path, row.label))
        except DataError as error:
            raise DataError(f"{path} line {row.line}: {error}") from error
    if not splits[VAL]:
        splits[VAL], splits[TEST] = splits[TEST], []
    if not splits[TRAIN]:
        raise DataError(f"{path}: no row of the split train")
    classes = _sorted_classes({record.class_name for record in splits[TRAIN]})
    for split, records in splits.items():
        require_known_classes(path, split, (record.class_name for record in records), classes)
    return Source(name or path.stem, classes, {split: tuple(records) for split, records in splits.items() if records})


def _rows(path: Path, columns: Columns) -> Iterator[_Row]:
    try:
        # Excel writes a byte-order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or ()
            for column in (columns.path, columns.label):
                if column not in header:
                    found = ", ".join(header) or "none"
                    raise DataError(f"{path}: no column {column!r}; it has {found}; name its columns")
            for row in reader:
                yield _row(path, reader.line_num, row, columns)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from error


def _row(path: Path, line: int, row: dict[str, str | None], columns: Columns) -> _Row:
    image, label = ((row[column] or "").strip() for column in (columns.path, columns.label))
    if not image or not label:
        missing = columns.label if image else columns.path
        raise DataError(f"{path} line {line}: no {missing}; fill it in or remove the row")
    named = (row.get(columns.split, TRAIN) or "").strip()
    if (split := split_called(named)) is None:
        raise DataError(f"{path} line {line}: {columns.split} {named!r}; it must be train, val or test")
    return _Row(line, path.parent / image, label, split)


def _require_listed_once(path: Path, rows: list[_Row]) -> None:
    lines: dict[Path, int] = {}
    for row in rows:
        if (before := lines.setdefault(row.path, row.line)) != row.line:
            raise DataError(f"{path} line {row.line}: {row.path.name} is listed in line {before} already; keep one")


def _sorted_classes(names: set[str]) -> tuple[str, ...]:
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numbers else None))
