"""The sweep's schedule as a Gantt chart, predicted against actual seconds, and the faults that trials survived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from ..tracking.histories import EpochPoint
from ..tracking.records import Outcome, TrialRecord
from .contents import Reported, all_trials
from .parts import COLORS, Figure, Numbers, Part, Section, Table, label, log_axis
from .quantities import duration

# Rows of a chart that have names; a row is at least so high, and the chart at most.
_NAMED, _ROW, _HIGHEST = 60, 16, 1100
_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
# A bar per number of workers, and how each end is marked: colour, symbol.
_BARS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#CC79A7")
_ENDS = {
    Outcome.STOPPED: ("stopped early", "#E69F00", "square"),
    Outcome.FAILED: ("failed", "#D55E00", "x"),
    Outcome.CANCELLED: ("cancelled", "#7F7F7F", "diamond"),
    Outcome.INTERRUPTED: ("interrupted", "#CC79A7", "triangle-up"),
}
_BEGAN_AGAIN = "#F0E442"
# Of two times by different clocks, or rounded ones, that are the same.
_SAME_S = 1.0


@dataclass(frozen=True)
class Stretch:
    """A stretch of a trial in which the same workers trained: from their start to their last epoch, or the trial's end.

    Times are in seconds since 1970.
    """

    began: float
    ended: float
    workers: int
    epochs: int


def stretches(record: TrialRecord, epochs: Sequence[EpochPoint]) -> list[Stretch]:
    """The stretches of a trial. A start that finished no epoch was not logged: it is not among them."""
    found = []
    for _, group in groupby(epochs, key=lambda point: (point.worker_at, point.workers)):
        own = list(group)
        at = own[0].worker_at if own[0].worker_at is not None else record.began
        if at is not None:
            found.append(Stretch(at, own[-1].ended, own[0].workers or 1, len(own)))
    if not found:
        if record.began is None or record.ended is None:
            return []
        return [Stretch(record.began, max(record.began, record.ended), 1, 0)]
    first, last = found[0], found[-1]
    if record.began is not None and record.began < first.began and len(found) == 1:
        found[0] = Stretch(record.began, first.ended, first.workers, first.epochs)
    if record.ended is not None and record.ended > last.ended:
        found[-1] = Stretch(found[-1].began, record.ended, last.workers, last.epochs)
    return found


def worker_seconds(record: TrialRecord, epochs: Sequence[EpochPoint]) -> float:
    """Workers × seconds of a trial's stretches."""
    return sum(part.workers * (part.ended - part.began) for part in stretches(record, epochs))


def schedule(experiments: Sequence[Reported]) -> Section:
    """A chart per experiment: when which trial ran, with how many workers, and how it ended."""
    figures = [figure for number, one in enumerate(experiments, 1) if (figure := _gantt(one, number, len(experiments)))]
    return Section("schedule", "Schedule", figures)


def _gantt(experiment: Reported, number: int, of: int) -> Figure | None:
    rows = [(record, stretches(record, experiment.epochs(record))) for record in experiment.records]
    rows = sorted(
        ((record, parts) for record, parts in rows if parts), key=lambda row: (row[1][0].began, row[0].trial_id)
    )
    if not rows:
        return None
    zero = rows[0][1][0].began
    span = max(parts[-1].ended for _, parts in rows) - zero
    size, unit = next((size, unit) for size, unit in _UNITS if span >= 2 * size or size == 1.0)

    def at(seconds: float) -> float:
        return (seconds - zero) / size

    bars = [(place, record, part) for place, (record, parts) in enumerate(rows) for part in parts]
    counts = sorted({part.workers for _, _, part in bars})
    traces = [
        _bars([bar for bar in bars if bar[2].workers == count], count, counts.index(count), at) for count in counts
    ]
    starts = [(place, record, after) for place, (record, parts) in enumerate(rows) for _, after in pairwise(parts)]
    if starts:
        text = [f"{label(record.trial_id)}<br>began again, {part.workers} workers" for _, record, part in starts]
        ats = [at(part.began) for _, _, part in starts]
        traces.append(_marks("began again", _BEGAN_AGAIN, "triangle-right", ats, [place for place, *_ in starts], text))
    for outcome, (name, color, symbol) in _ENDS.items():
        ends = [(place, record, parts[-1]) for place, (record, parts) in enumerate(rows) if record.outcome is outcome]
        if ends:
            text = [f"{label(record.trial_id)}<br>{name}<br>{label(record.reason)}" for _, record, _ in ends]
            places = [place for place, *_ in ends]
            traces.append(_marks(name, color, symbol, [at(part.ended) for *_, part in ends], places, text))
    names = [label(record.trial_id) for record, _ in rows]
    named = {"tickvals": [*range(len(rows))], "ticktext": names} if len(rows) <= _NAMED else {"showticklabels": False}
    title = "When each trial ran" if of == 1 else f"When each trial ran: {experiment.name}"
    return Figure(
        key=f"schedule-{number}",
        title=title,
        caption="A row per trial, in the order of their starts; a bar is a stretch with the same workers. A start that "
        "finished no epoch is not seen.",
        data=traces,
        layout={
            "barmode": "overlay",
            "bargap": 0.25,
            "xaxis": {"title": {"text": f"{unit} since the first start"}, "rangemode": "tozero"},
            "yaxis": {"range": [len(rows) - 0.5, -0.5], "showgrid": False, "ticks": "", **named},
        },
        numbers=Numbers(
            ("trial", "began", "ended", "seconds", "workers", "epochs", "outcome"),
            [
                (
                    record.trial_id,
                    part.began,
                    part.ended,
                    part.ended - part.began,
                    part.workers,
                    part.epochs,
                    str(record.outcome),
                )
                for _, record, part in bars
            ],
        ),
        height=min(_HIGHEST, 160 + _ROW * len(rows)),
    )


def _bars(bars: Sequence[tuple[int, TrialRecord, Stretch]], workers: int, color: int, at: Any) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"{workers} worker{'s' * (workers > 1)}",
        "y": [place for place, _, _ in bars],
        "base": [at(part.began) for _, _, part in bars],
        "x": [at(part.ended) - at(part.began) for _, _, part in bars],
        "width": 0.75,  # left open, it follows from the distances of a trace's own bars
        "marker": {"color": _BARS[color % len(_BARS)], "line": {"width": 0}},
        "hovertext": [
            f"{label(one.trial_id)}<br>{part.epochs} epochs, workers: {part.workers}<br>"
            f"{duration(part.ended - part.began)}"
            for _, one, part in bars
        ],
        "hoverinfo": "text",
    }


def _marks(
    name: str, color: str, symbol: str, x: Sequence[float], y: Sequence[float], text: Sequence[str]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "hovertext": text,
        "hoverinfo": "text",
        "marker": {"color": color, "symbol": symbol, "size": 9, "line": {"width": 1, "color": "#1a1a1a"}},
    }


def predictions(experiments: Sequence[Reported], price_per_hour: float | None = None) -> Section:
    """Predicted against actual seconds, and worker-hours and their cost, of completed trials.

    Args:
        experiments: whose trials.
        price_per_hour: of a worker.
    """
    found = [(one, record) for one, record in all_trials(experiments) if _is_comparable(record, one.epochs(record))]
    rows = []
    for one, record in found:
        assert record.predicted_seconds is not None
        assert record.elapsed is not None
        rows.append((one.name, record.trial_id, record.predicted_seconds, record.elapsed))
    if not rows:
        return Section("predictions", "Predicted and actual")
    parts: list[Part] = [_against(rows)]
    totals = _totals(found, price_per_hour)
    return Section("predictions", "Predicted and actual", [*parts, totals])


def _is_comparable(record: TrialRecord, epochs: Sequence[EpochPoint]) -> bool:
    """Whether a trial was predicted and ran in one go. Of a resumed one, only the latest run's time is known."""
    if record.outcome is not Outcome.COMPLETED or record.predicted_seconds is None or not record.elapsed:
        return False
    started = epochs[0].worker_at if epochs else None
    return started is None or record.began is None or started >= record.began - _SAME_S


def _against(rows: Sequence[tuple[str, str, float, float]]) -> Figure:
    low = 0.8 * min(min(predicted, actual) for *_, predicted, actual in rows)
    high = 1.25 * max(max(predicted, actual) for *_, predicted, actual in rows)
    ratios = sorted(actual / predicted for *_, predicted, actual in rows if predicted > 0)
    middle = f" In the middle, a trial took {ratios[len(ratios) // 2]:.2f} times what was predicted." if ratios else ""
    names = list(dict.fromkeys(name for name, *_ in rows))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as predicted",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": "#7F7F7F", "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        }
    ]
    for number, name in enumerate(names):
        own = [row for row in rows if row[0] == name]
        text = [f"{label(trial)}<br>predicted {duration(a)}<br>took {duration(b)}" for _, trial, a, b in own]
        color, symbol = COLORS[number % len(COLORS)], ("circle", "square", "diamond", "cross")[number % 4]
        x, y = [row[2] for row in own], [row[3] for row in own]
        traces.append(_marks(label(name), color, symbol, x, y, text))
    times = [seconds for *_, predicted, actual in rows for seconds in (predicted, actual)]
    return Figure(
        key="predicted",
        title="Predicted and actual seconds of completed trials",
        caption=f"From a trial's start to its end; the prediction is that of its start.{middle}",
        data=traces,
        layout={
            "xaxis": log_axis("predicted", times, duration),
            "yaxis": log_axis("actual", times, duration),
        },
        numbers=Numbers(("experiment", "trial", "predicted_seconds", "actual_seconds"), rows),
        printed=350,
    )


def _totals(found: Sequence[tuple[Reported, TrialRecord]], price: float | None) -> Table:
    rows, numbers = [], []
    for name in dict.fromkeys(one.name for one, _ in found):
        own = [(one, record) for one, record in found if one.name == name]
        predicted = actual = 0.0
        for one, record in own:
            epochs = one.epochs(record)
            workers = (epochs[0].workers if epochs else None) or 1
            predicted += workers * (record.predicted_seconds or 0.0) / 3600
            actual += worker_seconds(record, epochs) / 3600
        hours = [f"{predicted:.3g}", f"{actual:.3g}"]
        cost = [] if price is None else [f"{price * predicted:,.2f}", f"{price * actual:,.2f}"]
        rows.append([name, str(len(own)), *hours, *cost])
        numbers.append(
            [name, len(own), predicted, actual, *([] if price is None else [price * predicted, price * actual])]
        )
    costs = [] if price is None else ["predicted cost", "actual cost"]
    columns = ["experiment", "completed trials", "predicted worker-hours", "actual worker-hours", *costs]
    told = "" if price is None else f", at {price:g} per worker-hour"
    return Table(
        "worker-hours",
        "Worker-hours of these trials",
        columns,
        rows,
        Numbers([name.replace(" ", "_") for name in columns], numbers),
        f"Workers × hours from start to end{told}. Predicted: with the workers of the first epoch.",
        frozenset({"experiment"}),
    )


def faults(experiments: Sequence[Reported]) -> Section:
    """Trials that began again, changed their workers or left samples out, and went on; and those that did not."""
    survived, ended = [], []
    for experiment, record in all_trials(experiments):
        epochs = experiment.epochs(record)
        starts = len({point.worker_at for point in epochs if point.worker_at is not None})
        resizes = sum(a.workers != b.workers for a, b in pairwise(epochs))
        corrupt = sum(point.corrupt for point in epochs)
        own = [experiment.name, record.trial_id]
        if starts > 1 or resizes or corrupt:
            workers = " → ".join(str(count) for count, _ in groupby(point.workers for point in epochs))
            survived.append([*own, max(0, starts - 1), resizes, workers, corrupt, record.outcome.value])
        if record.outcome in (Outcome.FAILED, Outcome.INTERRUPTED):
            ended.append([*own, record.outcome.value, f"{record.epochs_done}/{record.epochs}", record.reason])
    parts = []
    if survived:
        columns = ["experiment", "trial", "began again", "resizes", "workers", "corrupt samples", "outcome"]
        told = (
            "Began again: from a checkpoint, after a lost process, a pause or a resume. Corrupt samples: of all epochs."
        )
        parts.append(_table("survived", "Faults survived", columns, survived, told))
    if ended:
        columns = ["experiment", "trial", "outcome", "epochs", "reason"]
        parts.append(_table("ended", "Trials that a fault ended", columns, ended, ""))
    return Section("faults", "Faults", parts)


def _table(key: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> Table:
    left = frozenset({"experiment", "trial", "workers", "outcome", "reason"})
    numbers = Numbers([name.replace(" ", "_") for name in columns], rows)
    return Table(key, title, columns, [[str(cell) for cell in row] for row in rows], numbers, caption, left)
