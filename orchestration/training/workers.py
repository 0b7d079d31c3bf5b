"""How many DDP workers a trial has: a number, a range, one by variant, or as many as the cluster makes best use of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from ...effnet.naming import canonical_name

AUTO = "auto"
_SPAN = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")
_VARIANTS = re.compile(r"([a-z_]*)(\d{1,3})-([a-z_]*)(\d{1,3})")
_EXPECTED = "expected a number such as 4, or a range such as 2:4"
_ALSO = "; also auto, or numbers by variant such as b0-b3=1,b7=8"


class WorkerRange(NamedTuple):
    """The least and the greatest number of DDP workers of a trial; it is elastic where they differ."""

    fewest: int
    most: int

    def __str__(self) -> str:
        return str(self.most) if self.fewest == self.most else f"{self.fewest}:{self.most}"


@dataclass(frozen=True)
class WorkersByVariant:
    """Numbers of workers by variant.

    Attributes:
        named: what was said of single variants, each once.
        default: of all others; None: none was given, or `auto`.
        auto: whether the cluster decides about all others.
    """

    named: tuple[tuple[str, WorkerRange], ...] = ()
    default: WorkerRange | None = None
    auto: bool = False

    def __str__(self) -> str:
        first = [AUTO] if self.auto else [str(self.default)] if self.default else []
        return ",".join((*first, *(f"{name}={workers}" for name, workers in self.named)))


def _parse(value: Any) -> WorkerRange | WorkersByVariant:
    """`4` and `"4"` are one number, `"2:4"` is a range, `"1,b4-b6=2,b7=8"` goes by variant, `"auto"` by the cluster."""
    if isinstance(value, WorkerRange | WorkersByVariant):
        return value
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(_EXPECTED + _ALSO)
    text = str(value).strip().lower()
    if "," not in text and "=" not in text and text != AUTO:
        return _range(text)
    named: dict[str, WorkerRange] = {}
    default: WorkerRange | None = None
    auto = False
    for part in filter(None, (part.strip() for part in text.split(","))):
        names, equals, count = (piece.strip() for piece in part.partition("="))
        if not equals:
            if auto or default:
                raise ValueError(f"'{part}' is a second number for all other variants; write one")
            auto = part == AUTO
            default = None if auto else _range(part)
            continue
        for name in _names(names):
            if name in named:
                raise ValueError(f"{name} has two numbers of workers; write one")
            named[name] = _range(count)
    if default and not named:
        return default
    return WorkersByVariant(tuple(named.items()), default, auto)


def _range(text: str) -> WorkerRange:
    span = _SPAN.fullmatch(text)
    if span is None:
        raise ValueError(_EXPECTED + _ALSO)
    fewest, most = int(span[1]), int(span[2] or span[1])
    if fewest < 1:
        raise ValueError("expected at least 1 worker")
    if fewest > most:
        raise ValueError(f"{text} runs backwards; the smaller number comes first")
    return WorkerRange(fewest, most)


def _names(text: str) -> Iterator[str]:
    """The variants of one part, by their canonical names: `b4-b6` → b4, b5, b6."""
    span = _VARIANTS.fullmatch(text)
    if span is None or span[3] not in ("", span[1]):
        yield canonical_name(text)
        return
    first, last = int(span[2]), int(span[4])
    if first > last:
        raise ValueError(f"variant range '{text}' runs backwards; write '{span[1]}{last}-{first}'")
    for number in range(first, last + 1):
        yield canonical_name(f"{span[1]}{number}")


def _plain(workers: WorkerRange | WorkersByVariant) -> int | str:
    return workers.most if isinstance(workers, WorkerRange) and workers.fewest == workers.most else str(workers)


Workers = Annotated[
    WorkerRange | WorkersByVariant,
    PlainValidator(_parse),
    PlainSerializer(_plain),
    WithJsonSchema({"type": ["integer", "string"]}),
]
"""The field's type. What is a number or a range for all variants alike is a `WorkerRange`."""


def workers_of(workers: WorkerRange | WorkersByVariant, variant: str) -> WorkerRange | None:
    """What holds for a variant; None: the cluster decides.

    Raises:
        ValueError: nothing was said about it.
    """
    if isinstance(workers, WorkerRange):
        return workers
    found = dict(workers.named).get(variant, workers.default)
    if found is None and not workers.auto:
        raise ValueError(
            f"workers: nothing is said about {variant}; add {variant}=N, or a number for all others such as 1,{workers}"
        )
    return found
