"""Means over seeds, against what can be said by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from effnet_cluster.orchestration.report.over_seeds import Arm, arms_of, repeated
from effnet_cluster.orchestration.tracking.comparison import to_csv
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord


def trial(variant: str, seed: int, top1: float | None, macs: int = 1, **changes: object) -> TrialRecord:
    record = TrialRecord(
        trial_id=f"{variant}-s{seed}",
        run_id=f"{variant}-{seed}",
        outcome=Outcome.COMPLETED,
        reason="",
        model_uri=None,
        variant=variant,
        activation="silu",
        shortcut="residual",
        seed=seed,
        image_size=32,
        params=macs,
        macs=macs,
        global_batch=32,
        shuffle_block=64,
        tail="drop",
        epochs=3,
        data_digest="d" * 64,
        best_top1=top1,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def test_arms_are_trials_that_differ_in_their_seeds_alone_and_compared_by_paired_seeds() -> None:
    first = [trial("b1", seed, 0.9 + seed / 100, macs=2) for seed in range(3)]
    others = [trial("b0", seed, 0.8 + seed / 100) for seed in (1, 2, 3)]
    swept = [trial("b1", 0, 0.7, macs=2, swept={"lr": 0.1})]
    unfinished = [trial("b0", 7, 0.99, outcome=Outcome.STOPPED), trial("b0", 8, None)]
    baseline, b1, high_lr = arms_of({"x": [*first, *swept, *others, *unfinished]})
    assert (baseline.variant, baseline.seeds, baseline.baseline) == ("b0", (1, 2, 3), True)
    assert (baseline.difference, baseline.p) == (None, None)
    assert baseline.mean == pytest.approx(0.82)
    assert baseline.sd == pytest.approx(0.01)
    assert baseline.low is not None
    assert baseline.low < baseline.mean
    assert (b1.variant, b1.pairs, b1.baseline) == ("b1", 2, False)  # of seeds 1 and 2
    assert b1.difference == pytest.approx(0.1)
    assert b1.p == pytest.approx(0.5)
    assert (dict(high_lr.swept), high_lr.sd, high_lr.difference, high_lr.p) == ({"lr": 0.1}, None, None, None)


def test_each_data_set_has_its_own_baseline_and_experiments_stay_apart() -> None:
    digits = [trial("b1", seed, 0.9) for seed in (0, 1)]
    photos = [trial("b0", seed, 0.5, data_digest="e" * 64) for seed in (0, 1)]
    again = [trial("b1", seed, 0.95) for seed in (0, 1)]
    found = arms_of({"x": [*digits, *photos], "y": again})
    assert [(arm.experiment, arm.data[0], arm.baseline, arm.difference) for arm in found] == [
        ("x", "e", False, None),
        ("x", "d", True, None),
        ("y", "d", False, pytest.approx(0.05)),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "relu"},
        {"shortcut": "none"},
        {"image_size": 64},
        {"epochs": 4},
        {"global_batch": 64},
        {"swept": {"lr": 0.1}},
        {"seed": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_differs_but_the_seed_makes_another_arm(changes: dict[str, object]) -> None:
    found: list[Arm] = arms_of({"x": [trial("b0", 0, 0.5), replace(trial("b0", 0, 0.5), **changes)]})  # type: ignore[arg-type]
    assert len(found) == (1 if "seed" in changes else 2)
    assert repeated(found) == ("seed" in changes)


def test_csv_has_the_seeds_as_one_text_and_swept_fields_as_columns() -> None:
    arms = arms_of({"x": [trial("b0", seed, 0.5, swept={"lr": 0.1}) for seed in (2, 0)]})
    (row,) = csv.DictReader(io.StringIO(to_csv(arms, Arm)))
    assert (row["variant"], row["seeds"], row["mean"], row["lr"]) == ("b0", "0 2", "0.5", "0.1")
