"""Lists as people write them: names and seeds, with ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..errors import UserError

_RANGE = re.compile(r"^(?P<stem>[a-z_]*)(?P<first>\d{1,3})-(?P<stem2>[a-z_]*)(?P<last>\d{1,3})$")
_SEED_RANGE = re.compile(r"(\d{1,10})-(\d{1,10})")
_MOST_SEEDS = 1000


def parse_names(
    text: str, known: Iterable[str], what: str, canonical: Callable[[str], str] | None = None
) -> tuple[str, ...]:
    """Expand a comma list with ranges: `"b0-b2,b5"` → `("b0", "b1", "b2", "b5")`, duplicates dropped.

    Args:
        text: what the user typed.
        known: the names that exist.
        what: the word for one of them in an error, such as "variant".
        canonical: the one way to write a name that is not in `known`; raises `ValueError` if it means nothing. Without
            it, there are no other names.

    Raises:
        UserError: a name that does not exist, a range that runs backwards, or nothing at all.
    """
    known = tuple(known)
    names: list[str] = []
    for part in (p.strip().lower() for p in text.split(",")):
        if not part:
            continue
        span = _RANGE.match(part) if part not in known else None
        if span and span["stem2"] in ("", span["stem"]):
            first, last = int(span["first"]), int(span["last"])
            if first > last:
                raise UserError(f"{what} range '{part}' runs backwards; write '{span['stem']}{last}-{first}'")
            names += [f"{span['stem']}{number}" for number in range(first, last + 1)]
        else:
            names.append(part)
    if not names:
        raise UserError(f"no {what} given; choose from {', '.join(known)}")
    for number, name in enumerate(names):
        if name in known:
            continue
        if canonical is None:
            raise UserError(f"unknown {what} '{name}'; choose from {', '.join(known)}")
        try:
            names[number] = canonical(name)
        except ValueError as error:
            raise UserError(str(error)) from None
    return tuple(dict.fromkeys(names))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Expand a comma list of numbers and ranges: `"0-2,7"` → `(0, 1, 2, 7)`, duplicates dropped.

    Raises:
        ValueError: a part is no number, or a range runs backwards or is absurdly long.
    """
    seeds: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if span := _SEED_RANGE.fullmatch(part):
            first, last = int(span[1]), int(span[2])
            if first > last:
                raise ValueError(f"the range {part} runs backwards; write {last}-{first}")
            if last - first >= _MOST_SEEDS:
                raise ValueError(f"the range {part} has {last - first + 1:,} seeds, more than {_MOST_SEEDS:,}")
            seeds += range(first, last + 1)
            continue
        try:
            seeds.append(int(part))
        except ValueError:
            problem = f"'{part}' is no whole number; write numbers such as 0,1 or a range such as 0-4"
            raise ValueError(problem) from None
    return tuple(dict.fromkeys(seeds))
