"""What the labels of shards mean: indices into the list of classes, or names of classes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .members import LabelMember, is_class_number
from .names import class_name, class_order
from .tables import open_text

# Where numbers are all there is to go by: one wrong label must not make a billion classes.
_MAX_CLASSES = 1_000_000


class Labelling(NamedTuple):
    """The classes, the class number of every label that has one, and in a line how the labels were read."""

    classes: tuple[str, ...]
    numbers: Mapping[str, int]
    meaning: str


def read_labels(labels: Iterable[str], member: LabelMember, given: Sequence[str] | None = None) -> Labelling:
    """Decide what labels mean.

    Numbers in .cls are indices, always. Labels of another member are class names, numbers such as 2019 too: without a
    list in natural order. Only if they are numbers, and none is in the list that is given, they are indices into it.

    Args:
        labels: those that occur, as text.
        given: class names in the order of their indices.

    Raises:
        DataError: a given name is empty, or is there twice where labels are names.
    """
    labels = set(labels)
    names = None if given is None else tuple(class_name(name.strip()) for name in given)
    if names is not None and "" in names:
        raise DataError(f"class {names.index('')} of the given ones has no name; remove it or fill it in")
    spelled = {label: class_name(label) for label in labels}
    numeric = all(map(is_class_number, labels))
    if member.extension == "cls" or (names is not None and numeric and not labels & set(names)):
        return _indices(labels, member, names)
    if names is None:
        names = class_order(spelled.values())
        meaning = f"labels in {member} are the names of {len(names):,} classes, in natural order"
    else:
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"class {repeated[0]!r} is given twice, but labels in {member} are names; keep one")
        meaning = f"labels in {member} are names of the {len(names):,} given classes"
    index = {name: number for number, name in enumerate(names)}
    return Labelling(names, {label: index[name] for label, name in spelled.items() if name in index}, meaning)


def _indices(labels: set[str], member: LabelMember, names: tuple[str, ...] | None) -> Labelling:
    if names is None:
        count = min(1 + max(map(int, labels)), _MAX_CLASSES)
        classes = tuple(map(str, range(count)))
        meaning = f"labels in {member} are indices of {count:,} classes"
    else:
        classes = unique_names(names, map(str, range(len(names))))
        meaning = f"labels in {member} are indices of the {len(classes):,} given classes"
    numbers = {label: int(label) for label in labels if int(label) < len(classes)}
    if unused := len(classes) - len(set(numbers.values())):
        meaning += f"; {unused:,} of them {'has' if unused == 1 else 'have'} no image"
    return Labelling(classes, numbers, meaning)


def unique_names(names: Iterable[str], identifiers: Iterable[str]) -> tuple[str, ...]:
    """The names in their order; those that occur twice, as ImageNet's two cranes, with their identifier behind them."""
    names = list(names)
    counts = Counter(names)
    unique = tuple(
        f"{name} ({identifier})" if counts[name] > 1 else name
        for name, identifier in zip(names, identifiers, strict=True)
    )
    if len(set(unique)) < len(unique):
        twice = Counter(unique).most_common(1)[0][0]
        raise DataError(f"two classes are called {twice!r}; rename one")
    return unique


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line; blank lines are none. Raises DataError if it cannot be read."""
    try:
        with open_text(path) as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise DataError(f"{path}: not a text in UTF-8: {error}; save it as UTF-8") from error
    if any("\0" in line for line in lines):
        raise DataError(f"{path}: not a text in UTF-8: it has zero bytes; save it as UTF-8")
    if not any(lines):
        raise DataError(f"{path}: no class names; it should hold one per line")
    return tuple(filter(None, lines))
