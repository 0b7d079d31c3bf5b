"""Tables in text files, row by row: CSV with any usual separator and encoding, and lines of JSON."""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..errors import DataError

_SEPARATORS = ",;\t|"
# The longer ones first: UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAX_JSON_CHARACTERS = 2**20


class TableRow(NamedTuple):
    """A row: the line of the file in which it ends, and its cells, without spaces around them, by column."""

    line: int
    cells: Mapping[str, str]


def open_text(path: Path) -> TextIO:
    """Open a text in the encoding that its byte-order mark tells, and in UTF-8 without one; the mark is not read.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(len(codecs.BOM_UTF32_LE))
    encoding = next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")
    return path.open(encoding=encoding, newline="")


def csv_columns(path: Path, needed: Collection[str]) -> tuple[str, ...]:
    """The header of a CSV file: that under the separator which gives all columns that are `needed`, or the most.

    Raises:
        DataError: the file cannot be read, or is no text.
    """
    with _telling(path, "a CSV file"):
        return _header(path, needed)[0]


def read_csv(path: Path, needed: Collection[str], optional: Collection[str] = ()) -> Iterator[TableRow]:
    """The rows below the header of a CSV file, without blank ones.

    Columns are separated by comma, semicolon, tab or bar: whichever gives the `needed` ones.

    Raises:
        DataError: unreadable, no CSV, a needed column is missing, a needed or optional one is there twice, or a row is
            longer than the header; the message names the line.
    """
    with _telling(path, "a CSV file"):
        header, separator = _header(path, needed)
        for column in needed:
            if column not in header:
                found = ", ".join(header) or "none"
                raise DataError(f"{path}: no column {column!r}; it has {found}; name its columns")
        counts = Counter(header)
        for column in (*needed, *optional):
            if counts[column] > 1:
                raise DataError(f"{path}: {counts[column]} columns are called {column!r}; rename all but one")
        with open_text(path) as file:
            rows = _rows(file, separator)
            next(rows)
            for line, row in rows:
                if any(row[len(header) :]):
                    more = f"{len(row)} fields, but the header has {len(header)}"
                    raise DataError(f"{path} line {line}: {more}; put fields with a {separator!r} in quotes")
                if any("\0" in cell for cell in row):
                    raise DataError(f"{path} line {line}: not a CSV file: it has zero bytes; save it as UTF-8")
                yield TableRow(line, dict(zip(header, row, strict=False)))


def read_json_lines(path: Path) -> Iterator[TableRow]:
    """The objects of a file with one per line; lists, objects and null are no cells.

    Raises:
        DataError: unreadable, or a line is no JSON object, or has a key twice; the message names the line.
    """
    with _telling(path, "lines of JSON"), open_text(path) as file:
        line = 0
        while text := file.readline(_MAX_JSON_CHARACTERS):
            line += 1
            if not text.strip():
                continue
            try:
                document = json.loads(text, object_pairs_hook=_unique)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} line {line}: not a JSON object: {error}") from error
            if not isinstance(document, dict):
                raise DataError(f"{path} line {line}: not a JSON object")
            yield TableRow(line, {key: cell for key, value in document.items() if (cell := _cell(value)) is not None})


@contextmanager
def _telling(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of reading a file, meant to be of some kind, into one DataError with its name."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: not {kind} in UTF-8: {error}; save it as such") from error


def _header(path: Path, needed: Collection[str]) -> tuple[tuple[str, ...], str]:
    """The header's columns, and the separator."""
    found = []
    for separator in _SEPARATORS:
        with open_text(path) as file:
            try:
                _, row = next(_rows(file, separator), (0, []))
            except csv.Error:  # quotes that make sense with another separator
                continue
        if any("\0" in cell for cell in row):
            raise DataError(f"{path}: not a CSV file in UTF-8: it has zero bytes; save it as UTF-8")
        found.append((tuple(row), separator))
    fitting = [one for one in found if set(needed) <= set(one[0])]
    return max(fitting or found or [((), ",")], key=lambda one: len(one[0]))


def _rows(file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(document := dict(pairs)) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is there twice")
    return document


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, list | dict):
        return None
    return value.strip() if isinstance(value, str) else json.dumps(value)
