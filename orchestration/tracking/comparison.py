"""Comparison of trials: accuracy against parameters, multiply-adds and time, with the paper's ratio columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from ..search.domains import Value
from ..search.pareto import front
from ..search.section import MAXIMIZED
from .records import TrialRecord

# What of a record an objective is, where its name is another.
_MEASURED = {"top1": "best_top1"}


@dataclass(frozen=True)
class ComparisonRow:
    """One trial of a comparison.

    Attributes:
        params, macs: the network's number of parameters, and its multiply-adds per image.
        params_ratio, macs_ratio: the same relative to the baseline, as the paper's table 2 has them.
        top1, top5: fractions of the validation images, of the best and of the latest epoch; None before the first.
        images_per_second: of the latest epoch's training; None before the first.
        seconds: training time of its epochs.
        predicted_seconds, actual_seconds: of the whole trial, from its start to its end; None where it is not known.
        front: whether no other completed trial is better in one objective and as good in the others; None of a sweep
            with one objective, and of a trial that has not completed.
        swept: fields of the recipe in which the trials of a sweep differ, and their values.
    """

    trial: str
    variant: str
    activation: str
    shortcut: str
    seed: int
    image_size: int
    params: int
    params_ratio: float
    macs: int
    macs_ratio: float
    top1: float | None
    top5: float | None
    images_per_second: float | None
    seconds: float
    predicted_seconds: float | None
    actual_seconds: float | None
    outcome: str
    front: bool | None = None
    swept: Mapping[str, Value] = field(default_factory=dict)


def compare(records: Sequence[TrialRecord], objectives: Sequence[str] = ()) -> list[ComparisonRow]:
    """Rows in order of multiply-adds. The baseline of the ratios is the trial with the fewest (B0 in a family).

    Args:
        records: the trials.
        objectives: those of their sweep. Where there are several, the Pareto front is marked.
    """
    ordered = sorted(records, key=lambda record: (record.macs, record.params, record.trial_id))
    fronted = _front(ordered, objectives) if len(objectives) > 1 else {}
    return [
        ComparisonRow(
            trial=record.trial_id,
            variant=record.variant,
            activation=record.activation,
            shortcut=record.shortcut,
            seed=record.seed,
            image_size=record.image_size,
            params=record.params,
            params_ratio=record.params / ordered[0].params,
            macs=record.macs,
            macs_ratio=record.macs / ordered[0].macs,
            top1=record.best_top1,
            top5=record.top5,
            images_per_second=record.images_per_second,
            seconds=record.seconds,
            predicted_seconds=record.predicted_seconds,
            actual_seconds=record.elapsed,
            outcome=record.outcome.value,
            front=fronted.get(record.run_id),
            swept=record.swept,
        )
        for record in ordered
    ]


def _front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> dict[str, bool]:
    """Whether each completed trial is on the Pareto front, by its run."""
    done = [record for record in records if record.final_top1 is not None]
    points = [[float(getattr(record, _MEASURED.get(name, name))) for name in objectives] for record in done]
    found = front(points, [name in MAXIMIZED for name in objectives])
    return {record.run_id: is_best for record, is_best in zip(done, found, strict=True)}


class Swept(Protocol):
    """A trial, or what trials have in common."""

    @property
    def swept(self) -> Mapping[str, Value]:
        """Fields of the recipe in which the trials of a sweep differ, and their values."""


def swept_fields(rows: Iterable[Swept]) -> list[str]:
    """The fields that the trials' sweeps differ in, each once."""
    return list(dict.fromkeys(name for row in rows for name in row.swept))


def to_json(rows: Sequence[Any]) -> str:
    """Rows, which are dataclasses, as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def to_csv(rows: Sequence[Any], kind: type = ComparisonRow) -> str:
    """Rows as CSV with a header; each swept field is a column, and what holds several numbers one text.

    Args:
        rows: dataclasses with `swept`.
        kind: their class, whose other fields are the other columns.
    """
    text = io.StringIO()
    own = [one.name for one in fields(kind) if one.name != "swept"]
    writer = csv.DictWriter(text, fieldnames=[*own, *swept_fields(rows)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: _text(getattr(row, name)) for name in own}
        writer.writerow(dict(row.swept) | values)
    return text.getvalue()


def _text(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
