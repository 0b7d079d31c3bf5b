"""Checks of configuration values that end in one clear line."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What a numeric field must be: its type, its range, and both in words."""

    type: type[int] | type[float]
    holds: Callable[[float], bool]
    words: str


NATURAL = Rule(int, lambda value: value >= 0, "an integer >= 0")
COUNT = Rule(int, lambda value: value >= 1, "an integer >= 1")
ODD = Rule(int, lambda value: value >= 1 and value % 2 == 1, "an odd integer >= 1")
POSITIVE = Rule(float, lambda value: value > 0, "a number > 0")
PROBABILITY = Rule(float, lambda value: 0 <= value < 1, "a number in [0, 1)")
FRACTION = Rule(float, lambda value: 0 <= value <= 1, "a number in [0, 1]")


def check_number(name: str, value: object, rule: Rule) -> None:
    """Raise ValueError, naming the field and what it must be, unless ``value`` obeys ``rule``."""
    # A bool is an int only to Python, an int is a fine float, and infinity and nan do not survive JSON.
    if (
        not isinstance(value, int if rule.type is int else (int, float))
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not rule.holds(value)
    ):
        raise ValueError(f"{name} must be {rule.words}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise ValueError, naming the field, unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")


def check_choice(what: str, value: object, known: Collection[str]) -> None:
    """Raise ValueError, listing the alternatives, unless ``value`` is one of ``known``."""
    if not (isinstance(value, str) and value in known):
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")


def check_fields(what: str, data: object, known: Collection[str], required: Collection[str] = ()) -> None:
    """Raise ValueError unless ``data`` is a mapping with all ``required`` keys and no key outside ``known``."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be a mapping of field names to values, not {data!r}")
    for key in data:
        check_choice(f"{what} field", key, known)
    missing = [key for key in required if key not in data]
    if missing:
        raise ValueError(f"{what} lacks the field {', '.join(missing)}")


def as_sequence(what: str, value: Any) -> list[Any] | tuple[Any, ...]:
    """Return ``value`` if it is a list or a tuple, else raise ValueError."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{what} must be a list, not {value!r}")
    return value
