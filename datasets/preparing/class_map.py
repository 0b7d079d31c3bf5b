"""A class map: a CSV that gives the classes of a source other names, merges them, and orders them."""

import csv
from pathlib import Path

from ..errors import DataError
from .names import class_name


def read_class_map(path: Path) -> dict[str, str]:
    """New class names by those of the source, from a CSV with the columns `from` and `to`.

    The order of the new names is that in which they first occur. An empty one leaves the class out.

    Raises:
        DataError: unreadable, other columns, no rows, or a class in two rows; the message names the line.
    """
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            if sorted(reader.fieldnames or ()) != ["from", "to"]:
                raise DataError(f"{path}: its first line must be from,to")
            for row in reader:
                old, new = (class_name(row[column].strip()) for column in ("from", "to"))
                if not old or old in found or None in row:
                    problem = f"maps {old!r} again" if old in found else "is not FROM,TO"
                    raise DataError(f"{path} line {reader.line_num}: {problem}; map each class once")
                found[old] = new
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not found:
        raise DataError(f"{path}: maps no class")
    return found
