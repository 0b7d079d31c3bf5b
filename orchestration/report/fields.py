"""The fields that a sweep varies: every trial as a line across them, and how much of the spread each explains."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..search.domains import Value, text_of
from ..tracking.comparison import swept_fields
from ..tracking.records import Outcome, TrialRecord
from .contents import DataSet, Reported, data_sets
from .parts import Figure, Numbers, Section, label

# What tells trials of any sweep apart, shown where they differ in it.
_OWN = ("variant", "activation", "shortcut")
# Numbers with more values than this are divided into so many groups of equal size: a share explained by a group per
# trial would say nothing.
_MOST_GROUPS = 5
# Values of an axis that are written beside it.
_MOST_TICKS = 9
# Of an axis: how wide the lines of one value stand.
_BUNDLE = 0.16
# From the worst to the best fifth: thin to thick lines, and light to dark hues, whose order is legible in grey.
_FIFTHS = (
    ("worst fifth", "#B9B9B9", 0.8),
    ("fourth fifth", "#CC79A7", 0.9),
    ("middle fifth", "#E69F00", 1.0),
    ("second fifth", "#0072B2", 1.4),
    ("best fifth", "#00496F", 2.2),
)


@dataclass(frozen=True)
class Axis:
    """A field of the trials, and where its values stand on an axis from 0 to 1."""

    name: str
    values: Sequence[Value]
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


def fields(experiments: Sequence[Reported]) -> Section:
    """Parallel coordinates of what trials differ in, and each field's share of the variance of top-1."""
    sets = data_sets(experiments)
    figures = []
    for data in sets:
        records = [record for _, record in data.trials if record.best_top1 is not None]
        names = varied(records)
        if len(names) > 1 and len(records) > len(names) + 1:
            figures.append(_coordinates(data, len(sets), records, names))
        done = [record for record in records if record.outcome is Outcome.COMPLETED]
        if len(names) > 1 and len(done) > len(names) + 1:
            figures.append(_importance(data, len(sets), done, names))
    return Section("fields", "Swept fields", figures)


def varied(records: Sequence[TrialRecord]) -> list[str]:
    """The fields in which trials differ; empty where none of them is swept."""
    swept = [name for name in swept_fields(records) if len({record.swept.get(name) for record in records}) > 1]
    own = [name for name in _OWN if len({getattr(record, name) for record in records}) > 1]
    return [*own, *swept] if swept else []


def _value(record: TrialRecord, name: str) -> Value:
    found: Value = getattr(record, name) if name in _OWN else record.swept.get(name)
    return found


def axis_of(name: str, values: Sequence[Value]) -> Axis:
    """Place values on an axis.

    Numbers stand by their size, or by its logarithm where they are positive and span a factor of ten or more; other
    values stand evenly, in the order in which they come.
    """
    distinct = list(dict.fromkeys(values))
    if not all(_is_number(value) for value in distinct):
        places = {value: number / max(1, len(distinct) - 1) for number, value in enumerate(distinct)}
        ticks = [(places[value], text_of(value)) for value in distinct[:: -(-len(distinct) // _MOST_TICKS)]]
        return Axis(name, values, [places[value] for value in values], ticks)
    numbers = [float(value) for value in values]  # type: ignore[arg-type]
    low, high = min(numbers), max(numbers)
    scale = math.log if low > 0 and high / low >= 10 else float
    start, span = scale(low), (scale(high) - scale(low)) or 1.0
    shown = sorted(set(numbers))
    if len(shown) > _MOST_TICKS:
        shown = [low, high]
    ticks = [((scale(number) - start) / span, f"{number:.4g}") for number in shown]
    return Axis(name, values, [(scale(number) - start) / span for number in numbers], ticks)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _coordinates(data: DataSet, of: int, records: Sequence[TrialRecord], names: Sequence[str]) -> Figure:
    top1s = [record.best_top1 or 0.0 for record in records]
    axes = [axis_of(name, [_value(record, name) for record in records]) for name in names]
    axes.append(axis_of("best top-1", top1s))
    order = sorted(range(len(records)), key=lambda number: top1s[number])
    across = [*(_spread(axis, order) for axis in axes[:-1]), axes[-1].places]
    traces = []
    for fifth, (title, color, width) in enumerate(_FIFTHS):
        own = order[len(order) * fifth // 5 : len(order) * (fifth + 1) // 5]
        if own:
            traces.append(_lines(title, color, width, records, across, own))
    annotations = [
        {
            "x": number,
            "y": place,
            "text": label(text),
            "showarrow": False,
            "xanchor": "left",
            "xshift": 4,
            "font": {"size": 11},
            "bgcolor": "rgba(255,255,255,0.8)",
        }
        for number, axis in enumerate(axes)
        for place, text in axis.ticks
    ]
    posts = [
        {"type": "line", "x0": number, "x1": number, "y0": -0.08, "y1": 1.08, "line": {"color": "#7F7F7F", "width": 1}}
        for number in range(len(axes))
    ]
    return Figure(
        key=f"fields-{data.number}",
        title=data.title("Trials across the fields that they differ in", of),
        caption="A line per trial: the thicker, the better its best top-1. Those of the same value stand side by side, "
        "the better above.",
        data=traces,
        layout={
            "xaxis": {
                "tickvals": [*range(len(axes))],
                "ticktext": [label(axis.name) for axis in axes],
                "range": [-0.1, len(axes) - 0.6],
                "showgrid": False,
                "showline": False,
                "ticks": "",
            },
            "yaxis": {"visible": False, "range": [-0.1, 1.1]},
            "annotations": annotations,
            "shapes": posts,
            "legend": {"traceorder": "reversed"},
            "hovermode": "closest",
        },
        numbers=Numbers(
            ("trial", *names, "best_top1"),
            [(one.trial_id, *(_value(one, name) for name in names), one.best_top1) for one in records],
        ),
        height=460,
    )


def _spread(axis: Axis, order: Sequence[int]) -> list[float]:
    """The places of trials, a little apart where several have the same value, which would hide each other.

    Args:
        axis: whose.
        order: the trials' numbers, ascending by accuracy: so they stand within a value, too.
    """
    shared: dict[float, list[int]] = defaultdict(list)
    for number in order:
        shared[axis.places[number]].append(number)
    width = min(_BUNDLE, 0.8 / max(1, len(shared)))
    spread = list(axis.places)
    for place, own in shared.items():
        for rank, number in enumerate(own):
            spread[number] = place + width * ((rank + 0.5) / len(own) - 0.5)
    return spread


def _lines(
    title: str,
    color: str,
    width: float,
    records: Sequence[TrialRecord],
    across: Sequence[Sequence[float]],
    own: Sequence[int],
) -> dict[str, Any]:
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for number in own:
        x += [*range(len(across)), None]
        y += [*(places[number] for places in across), None]
        texts.append(f"{label(records[number].trial_id)}<br>top-1 {records[number].best_top1:.4f}")
    return {
        "type": "scatter",
        "mode": "lines",
        "name": title,
        "x": x,
        "y": y,
        "meta": {"line_texts": texts},
        "hoverinfo": "text",
        "line": {"color": color, "width": width},
    }


def importance(values: Sequence[Value], top1s: Sequence[float]) -> float:
    """The share of the variance that the groups of a field's values explain: epsilon squared (Kelley 1935), 0 to 1.

    It is eta squared, the between-group share of the sum of squares, less what so many groups explain by chance. Each
    field is taken alone: what only a combination of fields explains is seen in none.

    Args:
        values: of each trial; more than five different numbers are divided into five groups of equal size.
        top1s: of each trial.
    """
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for key, top1 in zip(_grouped(values), top1s, strict=True):
        groups[key].append(top1)
    mean, left = statistics.fmean(top1s), len(top1s) - len(groups)
    total = sum((top1 - mean) ** 2 for top1 in top1s)
    if total == 0 or left <= 0:
        return 0.0
    within = sum((top1 - statistics.fmean(own)) ** 2 for own in groups.values() for top1 in own)
    between = total - within - (len(groups) - 1) * within / left
    return max(0.0, between / total)


def _grouped(values: Sequence[Value]) -> Iterable[Hashable]:
    distinct = set(values)
    if len(distinct) <= _MOST_GROUPS or not all(_is_number(value) for value in distinct):
        return values
    ascending = sorted(float(value) for value in values)  # type: ignore[arg-type]
    cuts = [ascending[len(ascending) * part // _MOST_GROUPS] for part in range(1, _MOST_GROUPS)]
    return [sum(float(value) >= cut for cut in cuts) for value in values]  # type: ignore[arg-type]


def _importance(data: DataSet, of: int, records: Sequence[TrialRecord], names: Sequence[str]) -> Figure:
    top1s = [record.best_top1 or 0.0 for record in records]
    shares = sorted((importance([_value(one, name) for one in records], top1s), name) for name in names)
    return Figure(
        key=f"importance-{data.number}",
        title=data.title("How much of the variance of top-1 each field explains, of completed trials", of),
        caption="Epsilon squared: the share of the variance of trials that lies between the values of one field, less "
        "what chance explains. Each field is taken alone; numbers with many values in five groups of equal size.",
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "x": [share for share, _ in shares],
                "y": [label(name) for _, name in shares],
                "text": [f"{share:.0%}" for share, _ in shares],
                "textposition": "outside",
                "cliponaxis": False,
                "hoverinfo": "skip",
                "marker": {"color": "#0072B2"},
                "width": 0.7,
            }
        ],
        layout={
            "xaxis": {"range": [0, 1.08], "tickformat": ".0%", "title": {"text": "share of the variance"}},
            "yaxis": {"type": "category", "showgrid": False},
        },
        numbers=Numbers(("field", "epsilon_squared"), [(name, share) for share, name in reversed(shares)]),
        height=140 + 34 * len(shares),
    )
