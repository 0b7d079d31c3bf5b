"""Hugging Face's imagefolder as a source: images with a metadata.csv or metadata.jsonl that gives each its label."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..errors import DataError
from ..manifest import TEST
from .csv_source import Columns, ListedImage, Places, listed_image, listed_source
from .names import split_called
from .sources import Source
from .tables import TableRow, csv_columns, read_csv, read_json_lines
from .tree import walk

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
NOT_LISTED = "not listed"
_FILE_NAME = "file_name"


def has_metadata(folder: Path, columns: Columns | None = None) -> bool:
    """Whether `folder`, or each of its split folders, has a metadata file with columns for file names and labels.

    Raises:
        DataError: there are several, and it is not clear which is meant.
    """
    columns = columns or Columns()
    tables = _tables(folder)
    try:
        headers = [_header(table) for table, _ in tables]
    except DataError:  # what is no table is no metadata: class folders decide
        return False
    return bool(tables) and all({_file_column(columns, header), columns.label} <= set(header) for header in headers)


def metadata_source(root: Path, columns: Columns | None = None, name: str | None = None) -> Source:
    """The images that the metadata files of `root`, or of its split folders, list; see `has_metadata`.

    File names are relative to the metadata's folder. A row's split is that of the folder that its file lies in, or what
    a column for it says. Images that no row lists are ignored.

    Args:
        columns: of the metadata; the file names' is called file_name, or *_file_name, unless this names another.

    Raises:
        DataError: as for `csv_source`, a file outside of `root`, or more than one metadata file where one is meant.
    """
    columns = columns or Columns()
    images = []
    for table, split in _tables(root):
        column = _file_column(columns, _header(table))
        for row in _rows(table, column, columns):
            image = listed_image(table, row, replace(columns, path=column), table.parent)
            images.append(image._replace(split=_split(root, image, split)))
    if not images:
        raise DataError(f"{root}: no rows in its metadata; list one image per row")
    if len({bool(image.split) for image in images}) > 1:
        first = next(image for image in images if not image.split)
        raise DataError(f"{first.where}: {first.path.name} is of no split, but others are; say the split of all")
    return listed_source(root, images, name or root.resolve().name, _ignored(root, images))


def _tables(root: Path) -> list[tuple[Path, str | None]]:
    """The metadata file of the root, or those of the split folders with their split; none if one but test lacks it."""
    try:
        inside = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror or error}") from error
    folders = {path: split for path in inside if path.is_dir() and (split := split_called(path.name))}
    own = _metadata_of(root)
    below = {folder: table for folder in folders if (table := _metadata_of(folder))}
    if own and below:
        raise DataError(
            f"{root}: has a {own.name}, and {next(iter(below)).name} has one too; keep those that are meant"
        )
    if own:
        return [(own, None)]
    if not below or any(folder not in below and split != TEST for folder, split in folders.items()):
        return []
    splits = [folders[folder] for folder in below]
    if len(set(splits)) < len(splits):
        names = ", ".join(folder.name for folder in below)
        raise DataError(f"{root}: of {names}, two are the same split; keep one")
    return [(table, folders[folder]) for folder, table in below.items()]


def _metadata_of(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: has {' and '.join(METADATA_FILES)}; keep one")
    return found[0] if found else None


def _header(table: Path) -> tuple[str, ...]:
    if table.suffix == ".csv":
        return csv_columns(table, (_FILE_NAME,))
    return tuple(column for row in islice(read_json_lines(table), 1) for column in row.cells)


def _file_column(columns: Columns, header: tuple[str, ...]) -> str:
    """The column with file names; as it is called if there is none."""
    if columns.path != Columns.path:
        return columns.path
    named = [column for column in header if column.endswith(f"_{_FILE_NAME}")]
    return named[0] if len(named) == 1 and _FILE_NAME not in header else _FILE_NAME


def _rows(table: Path, column: str, columns: Columns) -> Iterator[TableRow]:
    if table.suffix == ".csv":
        return read_csv(table, (column, columns.label), (columns.split,))
    return read_json_lines(table)


def _split(root: Path, image: ListedImage, of_table: str | None) -> str:
    """The split of an image: that of its table, of its row, or of the folder that it lies in; empty if none says it."""
    inside = os.path.relpath(os.path.normpath(image.path), root)
    if Path(inside).parts[0] == "..":
        raise DataError(f"{image.where}: {inside} lies outside of {root}; move it there, or list it in a .csv")
    folder = split_called(Path(inside).parts[0]) if of_table is None and len(Path(inside).parts) > 1 else of_table
    if folder and image.split and folder != image.split:
        raise DataError(f"{image.where}: its split is {image.split}, but {inside} lies in {folder}; keep one of them")
    return image.split or folder or ""


def _ignored(root: Path, images: list[ListedImage]) -> dict[str, tuple[str, ...]]:
    places = Places()
    listed = {places.of(image.path) for image in images}
    tree, ignored = walk(root)
    found = {why: [file for file in files if places.of(root / file) not in listed] for why, files in ignored.items()}
    found[NOT_LISTED] = [
        image.path.relative_to(root).as_posix() for image in tree.below() if places.of(image.path) not in listed
    ]
    return {why: tuple(files) for why, files in found.items() if files}
