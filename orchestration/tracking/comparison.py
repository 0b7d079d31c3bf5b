"""Comparison of trials: accuracy against parameters, multiply-adds and time, with the paper's ratio columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .runs import TrialRecord


@dataclass(frozen=True)
class ComparisonRow:
    """One trial of a comparison.

    `params` and `macs` are counts (`macs` an image); `params_ratio` and `macs_ratio` are relative to the baseline, as
    the paper's table 2 has them; `top1`, `top5` are fractions of the validation images, None before the first epoch;
    `seconds` is the training time of its epochs.
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
    outcome: str


def compare(records: Sequence[TrialRecord]) -> list[ComparisonRow]:
    """Rows in order of multiply-adds. The baseline of the ratios is the trial with the fewest (B0 in a family).

    A trial whose run has just been created and has no parameters yet is left out.
    """
    described = [record for record in records if record.params]
    ordered = sorted(described, key=lambda r: (int(r.params["macs"]), int(r.params["params"]), r.trial_id))
    if not ordered:
        return []
    base_params, base_macs = int(ordered[0].params["params"]), int(ordered[0].params["macs"])
    return [
        ComparisonRow(
            trial=record.trial_id,
            variant=record.params["variant"],
            activation=record.params["activation"],
            shortcut=record.params["shortcut"],
            seed=int(record.params["seed"]),
            image_size=int(record.params["image_size"]),
            params=int(record.params["params"]),
            params_ratio=int(record.params["params"]) / base_params,
            macs=int(record.params["macs"]),
            macs_ratio=int(record.params["macs"]) / base_macs,
            top1=record.metrics.get("val/best_top1"),
            top5=record.metrics.get("val/top5"),
            images_per_second=record.metrics.get("time/images_per_second"),
            seconds=record.seconds,
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
