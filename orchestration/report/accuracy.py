"""Accuracy against what it costs, with the Pareto front, and the curves of all trials."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..search.domains import texts_of
from ..search.pareto import front
from ..tracking.histories import EpochPoint
from ..tracking.records import TrialRecord
from .contents import DataSet, Reported, data_sets
from .parts import COLORS, DASHES, SYMBOLS, Figure, Numbers, Section, label, log_axis
from .quantities import count, duration

# Points of all curves of a figure: more would make the file large, and no screen shows them.
MOST_POINTS = 20_000
# Names beside points, and entries of a legend.
_MOST_NAMES, _MOST_ENTRIES = 12, 24
# Of each axis: two points that are nearer than this have no room for two names.
_NEAR = (0.07, 0.12)
_PRINTED = 350


@dataclass(frozen=True)
class PublishedPoint:
    """A published model: its name, number of parameters, multiply-adds per image and top-1, a fraction."""

    name: str
    params: int
    macs: int
    top1: float


@dataclass(frozen=True)
class _Cost:
    """What accuracy is drawn against."""

    key: str
    title: str
    of: Callable[[TrialRecord], float]
    of_published: Callable[[PublishedPoint], float] | None
    shown: Callable[[float], str]


_COSTS = (
    _Cost("params", "parameters", lambda one: one.params, lambda one: one.params, lambda value: count(round(value))),
    _Cost("macs", "multiply-adds per image", lambda one: one.macs, lambda one: one.macs, lambda v: count(round(v))),
    _Cost("seconds", "seconds of training", lambda one: one.seconds, None, duration),
)


def accuracy(experiments: Sequence[Reported], published: Sequence[PublishedPoint] = ()) -> Section:
    """Best top-1 against parameters, multiply-adds and seconds, data set by data set.

    Args:
        experiments: whose completed trials are shown.
        published: points to show beside them.
    """
    sets = data_sets(experiments)
    figures = [_against(data, len(sets), cost, published) for data in sets for cost in _COSTS if _done(data)]
    return Section("accuracy", "Accuracy against cost", figures)


@dataclass(frozen=True)
class _Group:
    """Completed trials that differ in their seeds alone: the means of their costs and accuracies."""

    style: str
    variant: str
    name: str
    cost: float
    top1s: Sequence[float]

    @property
    def mean(self) -> float:
        return sum(self.top1s) / len(self.top1s)


def _done(data: DataSet) -> list[tuple[Reported, TrialRecord]]:
    return [(experiment, record) for experiment, record in data.trials if record.final_top1 is not None]


def _groups(data: DataSet, cost: _Cost) -> list[_Group]:
    found: dict[tuple[object, ...], list[tuple[Reported, TrialRecord]]] = defaultdict(list)
    for experiment, record in _done(data):
        given = tuple(texts_of(record.swept, sorted(record.swept)))
        own = (record.variant, record.activation, record.shortcut, record.image_size, record.epochs)
        found[(experiment.name, *own, record.global_batch, *given)].append((experiment, record))
    styles = _styles([record for _, record in data.trials])
    groups = []
    for trials in found.values():
        records = [record for _, record in trials]
        first = records[0]
        told = [f"{name}={text}" for name, text in zip(first.swept, texts_of(first.swept, first.swept), strict=True)]
        groups.append(
            _Group(
                style=styles(first),
                variant=first.variant,
                name=" ".join((first.variant, *told)),
                cost=sum(map(cost.of, records)) / len(records),
                top1s=[record.best_top1 or 0.0 for record in records],
            )
        )
    return sorted(groups, key=lambda group: (group.cost, group.name))


def _styles(records: Sequence[TrialRecord]) -> Callable[[TrialRecord], str]:
    """What tells trials of a variant apart: their activation, and the shortcut where it differs, too."""
    several = len({record.shortcut for record in records}) > 1
    return lambda record: f"{record.activation}, {record.shortcut}" if several else record.activation


def _against(data: DataSet, of: int, cost: _Cost, published: Sequence[PublishedPoint]) -> Figure:
    groups = _groups(data, cost)
    on_front = front([(group.mean, group.cost) for group in groups], (True, False))
    # In the order of the trials, so that a style looks alike in all figures.
    styles = list(dict.fromkeys(map(_styles([one for _, one in data.trials]), (one for _, one in _done(data)))))
    traces: list[dict[str, Any]] = [_front_line(groups, on_front, cost)]
    for number, style in enumerate(styles):
        own = [group for group in groups if group.style == style]
        traces.append(_seeds(own, number, style))
        traces.append(_means(own, number, style, cost))
    if published and cost.of_published:
        traces.append(_published(published, cost.of_published, cost))
    several = any(len(group.top1s) > 1 for group in groups)
    seeds = " Large marks are means over seeds, small ones single trials." if several else ""
    rows: list[Sequence[Any]] = [
        (group.name, group.style, group.cost, len(group.top1s), group.mean, min(group.top1s), max(group.top1s), best)
        for group, best in zip(groups, on_front, strict=True)
    ]
    if cost.of_published:
        rows += [(one.name, "published", cost.of_published(one), 1, *[one.top1] * 3, None) for one in published]
    axis = log_axis(cost.title, [float(row[2]) for row in rows], cost.shown)
    return Figure(
        key=f"accuracy-{cost.key}-{data.number}",
        title=data.title(f"Top-1 against {cost.title}", of),
        caption=f"Best validation top-1 of completed trials.{seeds} The line is the Pareto front: nothing else is both "
        "cheaper and better.",
        data=traces,
        layout={"xaxis": axis, "yaxis": {"title": {"text": "best top-1"}, "tickformat": ".3~f"}},
        numbers=Numbers(("model", "kind", cost.key, "trials", "mean_top1", "min_top1", "max_top1", "front"), rows),
        printed=_PRINTED,
    )


def _front_line(groups: Sequence[_Group], on_front: Sequence[bool], cost: _Cost) -> dict[str, Any]:
    best = [group for group, is_best in zip(groups, on_front, strict=True) if is_best]
    named = len(best) <= _MOST_NAMES
    return {
        "type": "scatter",
        "mode": "lines+text" if named else "lines",
        "name": "Pareto front",
        "x": [group.cost for group in best],
        "y": [group.mean for group in best],
        "text": [f"{label(group.variant)}\u2002\u2002" for group in best] if named else None,
        "textposition": "top left",  # and two spaces to the right, where the marks of single trials are
        "cliponaxis": False,
        "line": {"color": "#7F7F7F", "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
    }


def _seeds(groups: Sequence[_Group], number: int, style: str) -> dict[str, Any]:
    """The single trials of groups that have several."""
    pairs = [(group.cost, top1) for group in groups if len(group.top1s) > 1 for top1 in group.top1s]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(style),
        "showlegend": False,
        "x": [cost for cost, _ in pairs],
        "y": [top1 for _, top1 in pairs],
        "marker": _marker(number, 5) | {"opacity": 0.7},
        "hoverinfo": "skip",
    }


def _means(groups: Sequence[_Group], number: int, style: str, cost: _Cost) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(style),
        "x": [group.cost for group in groups],
        "y": [group.mean for group in groups],
        "text": [
            f"{label(group.name)}<br>{label(style)}<br>top-1 {group.mean:.4f} of {len(group.top1s)}<br>"
            f"{cost.title} {cost.shown(group.cost)}"
            for group in groups
        ],
        "hoverinfo": "text",
        "marker": _marker(number, 11) | {"line": {"width": 1, "color": "#ffffff"}},
    }


def _published(points: Sequence[PublishedPoint], of: Callable[[PublishedPoint], float], cost: _Cost) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "published, ImageNet",
        "x": [of(point) for point in points],
        "y": [point.top1 for point in points],
        "text": [label(point.name) if named else "" for point, named in zip(points, _apart(points, of), strict=True)],
        "textposition": "top center",
        "hovertext": [
            f"{label(one.name)}<br>top-1 {one.top1:.4f}<br>{cost.title} {cost.shown(of(one))}" for one in points
        ],
        "hoverinfo": "text",
        "marker": {"symbol": "x-thin-open", "size": 9, "color": "#7F7F7F", "line": {"width": 2}},
    }


def _apart(points: Sequence[PublishedPoint], of: Callable[[PublishedPoint], float]) -> list[bool]:
    """Which points have room for a name: those that are not near an earlier one that has it."""
    places = [(math.log(of(point)), point.top1) for point in points]
    spans = [max(place[side] for place in places) - min(place[side] for place in places) or 1.0 for side in (0, 1)]
    named: list[bool] = []
    for place in places:
        earlier = (other for other, has_name in zip(places, named, strict=False) if has_name)
        near = (_is_near(place, other, spans) for other in earlier)
        named.append(not any(near))
    return named


def _is_near(place: Sequence[float], other: Sequence[float], spans: Sequence[float]) -> bool:
    distances = (abs(a - b) / span for a, b, span in zip(place, other, spans, strict=True))
    return all(distance < near for distance, near in zip(distances, _NEAR, strict=True))


def _marker(number: int, size: int) -> dict[str, Any]:
    return {"color": COLORS[number % len(COLORS)], "symbol": SYMBOLS[number % len(SYMBOLS)], "size": size}


def curves(experiments: Sequence[Reported]) -> Section:
    """Validation top-1 and training loss of every epoch of every trial, data set by data set."""
    sets = data_sets(experiments)
    kinds: tuple[tuple[str, str, Callable[[EpochPoint], float | None]], ...] = (
        ("top1", "validation top-1", lambda point: point.top1),
        ("loss", "training loss", lambda point: point.loss),
    )
    figures = [figure for data in sets for kind in kinds if (figure := _curves(data, len(sets), *kind))]
    return Section("curves", "Curves of all trials", figures)


def _curves(data: DataSet, of: int, key: str, title: str, value: Callable[[EpochPoint], float | None]) -> Figure | None:
    drawn: list[tuple[Reported, TrialRecord, list[tuple[int, float]]]] = []
    for experiment, record in data.trials:
        own = [(point.epoch, found) for point in experiment.epochs(record) if (found := value(point)) is not None]
        if own:
            drawn.append((experiment, record, own))
    total = sum(len(own) for _, _, own in drawn)
    if not total or max(len(own) for _, _, own in drawn) < 2:
        return None
    keep = max(2, MOST_POINTS // len(drawn)) if total > MOST_POINTS else total
    drawn = [(experiment, record, thinned(own, keep)) for experiment, record, own in drawn]
    style = _styles([record for _, record in data.trials])
    groups: dict[tuple[str, str], list[tuple[TrialRecord, list[tuple[int, float]]]]] = defaultdict(list)
    for _, record, own in drawn:
        groups[record.variant, style(record)].append((record, own))
    variants, styles = (list(dict.fromkeys(pair[place] for pair in groups)) for place in (0, 1))
    traces = [
        _lines(f"{variant}, {name}", trials, variants.index(variant), styles.index(name))
        for (variant, name), trials in groups.items()
    ]
    left_out = "" if total <= MOST_POINTS else f" Of {total:,} points, {keep} of each trial are shown, evenly."
    return Figure(
        key=f"curves-{key}-{data.number}",
        title=data.title(title.capitalize(), of),
        caption="A line per trial. Colours, and the marks at the ends, tell variants; dashes tell activations."
        + left_out,
        data=traces,
        layout={
            "xaxis": {"title": {"text": "epoch"}},
            "yaxis": {"title": {"text": title}},
            "showlegend": len(traces) <= _MOST_ENTRIES,
            "hovermode": "closest",
        },
        numbers=Numbers(
            ("experiment", "trial", "epoch", key),
            [(one.name, record.trial_id, epoch, found) for one, record, own in drawn for epoch, found in own],
        ),
        height=480,
        printed=_PRINTED,
    )


def thinned(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many points of a curve, two or more: its first, its last and some evenly between them."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    return [points[round(number * last / (most - 1))] for number in range(most)]


def _lines(
    name: str, trials: Iterable[tuple[TrialRecord, Sequence[tuple[int, float]]]], color: int, dash: int
) -> Mapping[str, Any]:
    """The curves of trials as one trace, with gaps between them: a thousand traces would make the page slow."""
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    sizes: list[int] = []
    for record, own in trials:
        x += [*(epoch for epoch, _ in own), None]
        y += [*(found for _, found in own), None]
        texts.append(label(record.trial_id))
        sizes += [0] * (len(own) - 1) + [8, 0]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(name),
        "x": x,
        "y": y,
        "meta": {"line_texts": texts},
        "hovertemplate": "%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
        "line": {"color": COLORS[color % len(COLORS)], "dash": DASHES[dash % len(DASHES)], "width": 1.4},
        "marker": {"symbol": SYMBOLS[color % len(SYMBOLS)], "size": sizes},
        "opacity": 0.8,
    }
