"""Comparison of trials: accuracy against parameters, multiply-adds and time, with the paper's ratio columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .records import TrialRecord


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


def compare(records: Sequence[TrialRecord]) -> list[ComparisonRow]:
    """Rows in order of multiply-adds. The baseline of the ratios is the trial with the fewest (B0 in a family)."""
    ordered = sorted(records, key=lambda record: (record.macs, record.params, record.trial_id))
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
        )
        for record in ordered
    ]


def to_json(rows: Sequence[ComparisonRow]) -> str:
    """The rows as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def to_csv(rows: Sequence[ComparisonRow]) -> str:
    """The rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ComparisonRow.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
