"""What a page is made of: figures, tables, texts and pictures, all of them plain values that `page` writes as HTML.

Texts here are as the user wrote them. What a figure shows of them goes through `label`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's palette, which the colour-blind can tell apart; without its black and its yellow, which a dark and a
light page would swallow."""
SCALE = ((0.0, "#f2f6fb"), (0.5, "#8fb8da"), (1.0, "#0a4f86"))
"""From nothing to all: light to dark, so that greyscale keeps the order."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x")
"""What tells lines and points apart in greyscale."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LABEL_LENGTH = 60
_MOST_TICKS = 12


def label(text: str) -> str:
    """A text for a figure, in which Plotly would take `<b>`, `<br>`, `<a href>` and entities for markup; shortened."""
    short = text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1]}…"
    return "".join(_ENTITIES.get(character, character) for character in short)


def log_axis(title: str, values: Sequence[float], shown: Callable[[float], str]) -> dict[str, Any]:
    """A logarithmic axis with ticks at the values themselves, without those that would stand too close."""
    positive = sorted({value for value in values if value > 0})
    if not positive:
        return {"title": {"text": title}}
    low, high = math.log10(positive[0]), math.log10(positive[-1])
    margin = max(0.08 * (high - low), 0.1)
    apart = (high - low + 2 * margin) / _MOST_TICKS
    ticks: list[float] = []
    for value in positive:
        if not ticks or math.log10(value / ticks[-1]) >= apart:
            ticks.append(value)
    return {
        "type": "log",
        "title": {"text": title},
        "tickvals": ticks,
        "ticktext": [shown(tick) for tick in ticks],
        "range": [low - margin, high + margin],
    }


@dataclass(frozen=True)
class Numbers:
    """The numbers behind a figure or a table, for download."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def to_csv(self) -> str:
        """With a header; None is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()


@dataclass(frozen=True)
class Figure:
    """One interactive figure.

    Attributes:
        key: names it in the page, and its files: letters, digits and hyphens.
        title, caption: what it shows, and how to read it.
        data: Plotly's traces.
        layout: Plotly's layout, besides what all figures have in common.
        numbers: what it shows.
        height: in CSS pixels.
        printed: the height on paper, if it is another, so that two figures fit a page.
    """

    key: str
    title: str
    caption: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    numbers: Numbers
    height: int = 440
    printed: int | None = None


@dataclass(frozen=True)
class Table:
    """A table of texts; `numbers` are for download. Columns that are named in `left` are aligned to the left."""

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Numbers | None = None
    caption: str = ""
    left: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Facts:
    """Names and their values, a line each; those that follow each other stand side by side where there is room."""

    title: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Code:
    """A text that is shown as it is, such as a file or a command; behind its title where `folded`."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture in PNG or JPEG format, with what is written below it."""

    data: bytes
    kind: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    title: str
    pictures: Sequence[Picture]
    caption: str = ""


Part: TypeAlias = str | Figure | Table | Facts | Code | Gallery
"""A text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; one without parts is not shown."""

    key: str
    title: str
    parts: Sequence[Part] = field(default_factory=tuple)
