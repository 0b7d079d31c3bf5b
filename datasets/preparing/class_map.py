"""A class map: a CSV that gives the classes of a source other names, merges them, and orders them."""

from pathlib import Path

from ..errors import DataError
from .names import class_name
from .tables import read_csv


def read_class_map(path: Path) -> dict[str, str]:
    """New class names by those of the source, from a CSV with the columns `from` and `to`.

    The order of the new names is that in which they first occur. An empty one leaves the class out.

    Raises:
        DataError: unreadable, a column is missing, no rows, or a class in two rows; the message names the line.
    """
    found: dict[str, str] = {}
    for row in read_csv(path, ("from", "to")):
        old, new = (class_name(row.cells.get(column, "")) for column in ("from", "to"))
        if not old or old in found:
            problem = f"maps {old!r} again" if old else "maps no class"
            raise DataError(f"{path} line {row.line}: {problem}; map each class once")
        found[old] = new
    if not found:
        raise DataError(f"{path}: maps no class; list from,to in rows below its header")
    return found
