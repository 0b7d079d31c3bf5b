"""The comparison: order, ratios, and forms that other programs read."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.comparison import ComparisonRow, compare, to_csv, to_json
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord


def record(trial_id: str, params: int, macs: int, **fields: Any) -> TrialRecord:
    values: dict[str, Any] = {
        "run_id": "r",
        "outcome": Outcome.COMPLETED,
        "reason": "",
        "model_uri": None,
        "variant": "b0",
        "activation": "silu",
        "shortcut": "residual",
        "seed": 3,
        "image_size": 32,
        "global_batch": 32,
        "shuffle_block": None,
        "tail": "drop",
        "epochs": 1,
        "data_digest": "d",
        "seconds": 1.5,
    }
    return TrialRecord(trial_id=trial_id, params=params, macs=macs, **values | fields)


ROWS = [
    record("large", 66_347_960, 37_000_000_000, best_top1=0.843, top5=0.97),
    record("small", 5_288_548, 390_000_000, best_top1=0.771, images_per_second=80.5),
    record("middle, with a comma", 9_109_994, 1_000_000_000, outcome=Outcome.FAILED),
]


def test_rows_stand_in_order_of_multiply_adds_with_ratios_to_the_smallest() -> None:
    rows = compare(ROWS)
    assert [row.trial for row in rows] == ["small", "middle, with a comma", "large"]
    assert [row.params_ratio for row in rows] == [1, 9_109_994 / 5_288_548, 66_347_960 / 5_288_548]
    assert [row.macs_ratio for row in rows] == pytest.approx([1, 100 / 39, 3700 / 39])


def test_the_order_does_not_depend_on_that_of_the_records() -> None:
    tied = [record(name, 5, 5) for name in "bac"]
    assert [row.trial for row in compare(tied)] == ["a", "b", "c"]
    assert compare(ROWS[::-1]) == compare(ROWS)


def test_a_trial_without_an_epoch_has_no_accuracy() -> None:
    row = next(row for row in compare(ROWS) if row.trial.startswith("middle"))
    assert (row.top1, row.top5, row.images_per_second, row.outcome) == (None, None, None, "failed")


def test_no_trials_make_no_rows() -> None:
    assert compare([]) == []
    assert json.loads(to_json([])) == []
    assert list(csv.DictReader(io.StringIO(to_csv([])))) == []


def test_the_ratios_of_the_paper_come_out_of_a_plan(digits: Manifest) -> None:
    """Table 2 (1000 classes) rounds B7's parameters to 66M and B0's to 5.3M: 12x."""
    trials = make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0,b7"}), digits).trials
    rows = compare([record(t.trial_id, t.params, t.macs) for t in trials])
    assert [row.trial for row in rows] == ["digits-b0-silu-s0", "digits-b7-silu-s0"]
    assert rows[1].params_ratio == trials[1].params / trials[0].params


def test_json_reads_back_as_the_same_rows() -> None:
    assert [ComparisonRow(**fields) for fields in json.loads(to_json(compare(ROWS)))] == compare(ROWS)


def test_csv_reads_back_with_every_value() -> None:
    read = list(csv.DictReader(io.StringIO(to_csv(compare(ROWS)))))
    assert len(read) == 3
    for fields, row in zip(read, compare(ROWS), strict=True):
        for name, value in vars(row).items():
            if name == "swept":  # each of its fields is a column
                continue
            kind = str if value is None else type(value)
            assert kind(fields[name]) == ("" if value is None else value)


def test_each_swept_field_is_a_column_also_where_other_trials_have_none() -> None:
    rows = compare([record("a", 1, 1, swept={"lr": 0.1, "clip_grad": None}), record("b", 2, 2, swept={"ema": 0.5})])
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [(fields["lr"], fields["clip_grad"], fields["ema"]) for fields in read] == [("0.1", "", ""), ("", "", "0.5")]
    assert [fields["swept"] for fields in json.loads(to_json(rows))] == [{"lr": 0.1, "clip_grad": None}, {"ema": 0.5}]


def test_the_front_of_several_objectives_is_marked_among_the_completed() -> None:
    trials = [
        record("cheap", 1, 10, best_top1=0.5),
        record("worse", 1, 20, best_top1=0.4),
        record("good", 1, 30, best_top1=0.9),
        record("alike", 1, 30, best_top1=0.9),
        record("stopped", 1, 5, best_top1=0.95, outcome=Outcome.STOPPED),
        record("begun", 1, 1),
    ]
    # Runs tell them apart: experiments that are compared may have trials of one name.
    trials = [replace(trial, run_id=trial.trial_id) for trial in trials]
    rows = {row.trial: row.front for row in compare(trials, ("top1", "macs"))}
    assert rows == {"cheap": True, "worse": False, "good": True, "alike": True, "stopped": None, "begun": None}
    assert {row.front for row in compare(trials)} == {row.front for row in compare(trials, ("top1",))} == {None}
    slow = [replace(trial, seconds=float(number)) for number, trial in enumerate(trials)]
    assert [row.trial for row in compare(slow, ("top1", "seconds")) if row.front] == ["cheap", "good"]
