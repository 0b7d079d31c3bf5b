"""Domains: the values that a swept field of the recipe can take, as a list or as a range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model

Value: TypeAlias = bool | int | float | str | None
"""What a field of a recipe can be."""

_RANGE, _LOG, _NONE = "..", ":log", "none"
# A recipe's name says what its other fields start from, so that these would be other fields in each trial.
_NOT_SWEPT = ("name",)
# Decimals of a drawn number, counted from the first that tells the range's ends apart: enough, and short in names.
_DIGITS = 4


@dataclass(frozen=True)
class Choice:
    """A list of values, each once."""

    values: tuple[Value, ...]

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    @property
    def ends(self) -> tuple[Value, ...]:
        """All values: each may be one that cannot run."""
        return self.values

    def at(self, share: float) -> Value:
        """The value at a share of the list, from 0 to below 1."""
        return self.values[int(share * len(self.values))]

    def plain(self) -> list[Value]:
        """As a spec file has it."""
        return list(self.values)

    def __str__(self) -> str:
        return ",".join(map(text_of, self.values))


@dataclass(frozen=True)
class Span:
    """A range of numbers, both ends included.

    Attributes:
        low, high: its ends.
        log: whether each factor is equally likely, rather than each difference.
        whole: whether it holds whole numbers alone.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def size(self) -> int | None:
        """How many values there are; None of a range of fractions."""
        return int(self.high - self.low) + 1 if self.whole else None

    @property
    def ends(self) -> tuple[Value, ...]:
        """The least and the greatest value."""
        return (self.low, self.high)

    def at(self, share: float) -> Value:
        """The value at a share of the range, from 0 to below 1, rounded to a few digits."""
        # Every whole number owns the half on either side of it.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** share if self.log else low + share * (high - low)
        return self.rounded(value)

    def rounded(self, value: float) -> Value:
        """The value in the range that is nearest, of those with few digits."""
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        # Of a logarithmic range the digits count from the value's own first one.
        first = math.floor(math.log10(value if self.log else self.high - self.low))
        return float(min(max(round(value, _DIGITS - 1 - first), self.low), self.high))

    def plain(self) -> str:
        """As a spec file has it."""
        return str(self)

    def __str__(self) -> str:
        return f"{text_of(self.low)}{_RANGE}{text_of(self.high)}{_LOG if self.log else ''}"


Domain: TypeAlias = Choice | Span


def text_of(value: Value) -> str:
    """The one way to write a value in names, tables and messages: 1e-3 is `0.001`, 2.0 is `2`, True is `on`."""
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return repr(value).removesuffix(".0").replace("+", "")
    return str(value)


def names_several(written: Any) -> bool:
    """Whether what a person wrote for one field is a list or a range of values."""
    if isinstance(written, str):
        return "," in written or _RANGE in written
    return isinstance(written, list | tuple | Choice | Span)


def assignments(written: Any) -> dict[str, Any]:
    """The sweep as a mapping of fields to what was written for them, also of `FIELD=VALUES` texts.

    Raises:
        ValueError: a text is no assignment, or a field is there twice.
    """
    if written is None:
        return {}
    if isinstance(written, Mapping):
        return {str(name).replace("-", "_"): values for name, values in written.items()}
    found: dict[str, Any] = {}
    for text in [written] if isinstance(written, str) else written:
        name, sign, values = str(text).partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise ValueError(f"sweep: expected FIELD=VALUES, such as lr=1e-3,3e-3 (got {text!r})")
        if name in found:
            raise ValueError(f"sweep: {name} is there twice; give all its values at once")
        found[name] = values
    return found


def parse_domain(model: type[BaseModel], name: str, written: Any) -> Domain:
    """What was written for a swept field, each value checked by the field itself.

    Args:
        model: the recipe's class.
        name: of its field.
        written: a list, a comma list, a range such as `1e-4..1e-2:log`, or one value.

    Raises:
        ValueError: there is no such field, it cannot be swept, or a value is none of its; one line with both.
    """
    if name not in model.model_fields or name in _NOT_SWEPT:
        raise ValueError(f"sweep: {_why_not(name)}")
    if isinstance(written, Choice | Span):
        return written
    if isinstance(written, str) and _RANGE in written:
        return _span(model, name, written)
    parts = written.split(",") if isinstance(written, str) else written
    values = parts if isinstance(parts, list | tuple) else [parts]
    values = [part.strip() if isinstance(part, str) else part for part in values]
    checked = [_checked(model, name, value) for value in values if value != ""]
    if not checked:
        raise ValueError(f"sweep: {name} has no values; give some, such as {name}=A,B")
    # 1, 1.0 and True are one key to Python, and another value each.
    return Choice(tuple({text_of(value): value for value in checked}.values()))


def _why_not(name: str) -> str:
    if name in ("variant", "activation", "shortcut", "seed", "variants", "activations", "shortcuts", "seeds"):
        listed = f"{name.removesuffix('s')}s"
        return f"{name} is not of the recipe; --{listed} takes a list itself"
    if name in (*_NOT_SWEPT, "recipe"):
        return "the recipe's name cannot be swept, for the other fields start from it; submit an experiment each"
    return f"there is no field {name!r} in a recipe; `effnet-cluster submit --help-all` lists them under Recipe"


def _span(model: type[BaseModel], name: str, written: str) -> Span:
    body = written.strip().removesuffix(_LOG)
    log = body != written.strip()
    low, high = (_checked(model, name, end.strip()) for end in body.split(_RANGE, 1))
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float):
            raise ValueError(f"sweep: {name}={written} is a range, but {name} is no number; list its values")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        raise ValueError(f"sweep: {name}={written} runs backwards; the smaller number comes first")
    if log and low <= 0:
        raise ValueError(f"sweep: {name}={written} is logarithmic, but begins at {text_of(low)}; begin above 0")
    return Span(low, high, log, whole=isinstance(low, int))


def _checked(model: type[BaseModel], name: str, value: Any) -> Value:
    """A value as the field has it."""
    try:
        checked: Value = _alone(model, name)(value=value).value  # type: ignore[attr-defined]
    except ValidationError as error:
        # "none" is a word of some fields; of others it says that nothing is set.
        if value == _NONE and type(None) in _members(model.model_fields[name].annotation):
            return None
        raise ValueError(f"recipe.{name}: {error.errors()[0]['msg']} (got {value!r})") from None
    return checked


@cache
def _alone(model: type[BaseModel], name: str) -> type[BaseModel]:
    """A model of one field alone, without the checks that take others into account."""
    field = model.model_fields[name]
    fields: Any = {"value": (field.annotation, field)}
    return create_model(name, __config__=model.model_config, **fields)


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for member in get_args(annotation) for part in _members(member))
    return () if get_origin(annotation) is Literal else (annotation,)


def texts_of(configuration: Mapping[str, Value], names: Iterable[str]) -> Sequence[str]:
    """The values of some fields as texts; empty for those that are missing."""
    return [text_of(configuration[name]) if name in configuration else "" for name in names]
