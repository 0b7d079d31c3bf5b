"""A trial's state, progress and predicted rest: from its plan and its record, with and without engines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking import progress
from effnet_cluster.orchestration.tracking.progress import TrialProgress, count_states, progress_of
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.time, "time", lambda: NOW)


@pytest.fixture(scope="module")
def plan(digits: Manifest) -> Plan:
    fields = {"name": "x", "variants": "b0", "seeds": [0, 1], "recipe": {"epochs": 10}}
    return make_plan(ExperimentSpec.parse(fields), digits)


def record(name: str, outcome: Outcome = Outcome.RUNNING, **fields: Any) -> TrialRecord:
    facts = ("run", outcome, "", None, "b0", "silu", "residual", 0, 32, 1, 1, 4, None, "drop", 10, "0" * 64)
    return replace(TrialRecord(name, *facts), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("experiment", "cancelled", "state"),
    [
        (None, False, "planned"),
        (Outcome.FAILED, False, "planned"),
        (Outcome.PENDING, False, "pending"),
        (Outcome.RUNNING, False, "pending"),
        (Outcome.RUNNING, True, "cancelled"),
    ],
)
def test_a_trial_without_a_run_is_what_its_experiment_says(
    plan: Plan, experiment: Outcome | None, cancelled: bool, state: str
) -> None:
    first, second = (trial.trial_id for trial in plan.trials)
    rows = progress_of(plan.trials, [record(first)], experiment, {second} if cancelled else frozenset())
    assert [(row.trial, row.state) for row in rows] == [(first, "running"), (second, state)]
    assert (rows[1].epoch, rows[1].epochs, rows[1].elapsed_s, rows[1].rest_s) == (0, 10, None, None)


def test_a_trial_that_waits_and_was_asked_to_end_is_cancelled_and_one_that_runs_is_not_yet(plan: Plan) -> None:
    first, second = (trial.trial_id for trial in plan.trials)
    records = [record(first), record(second, Outcome.PENDING)]
    rows = progress_of(plan.trials, records, Outcome.RUNNING, {first, second})
    assert [row.state for row in rows] == ["running", "cancelled"]


def test_what_the_server_does_not_say_is_unknown_and_not_made_up(plan: Plan) -> None:
    rows = progress_of(plan.trials, None, Outcome.RUNNING)
    assert [row.state for row in rows] == [None, None]
    assert count_states(rows) == "2 unknown"


@pytest.mark.parametrize("outcome", list(Outcome)[1:])
def test_elapsed_and_rest_follow_from_the_trials_own_epochs(plan: Plan, outcome: Outcome) -> None:
    name = plan.trials[0].trial_id
    ended = NOW - 20 if outcome.is_terminal else None
    facts = {"epochs_done": 4, "seconds": 100.0, "began": NOW - 150, "ended": ended, "best_top1": 0.5, "reason": "r"}
    row = progress_of(plan.trials, [record(name, outcome, **facts)], Outcome.RUNNING)[0]
    waits = outcome is Outcome.PENDING
    assert row.elapsed_s == (None if waits else 130 if outcome.is_terminal else 150)
    assert row.rest_s == (0 if outcome.is_finished else 6 * 25)
    assert (row.epoch, row.epochs, row.top1, row.reason) == (4, 10, 0.5, "r")


def test_no_time_is_below_zero(plan: Plan) -> None:
    """Where a node's clock is ahead, and where a trial has trained more epochs than it is to have now."""
    facts = {"epochs_done": 12, "seconds": 100.0, "began": NOW + 5}
    row = progress_of(plan.trials, [record(plan.trials[0].trial_id, **facts)], Outcome.RUNNING)[0]
    assert (row.elapsed_s, row.rest_s) == (0, 0)


def test_trials_that_no_plan_lists_come_last_and_everything_is_json(plan: Plan) -> None:
    rows = progress_of(plan.trials, [record("of-a-searcher", epochs=3)], Outcome.RUNNING)
    assert [row.trial for row in rows] == [*(trial.trial_id for trial in plan.trials), "of-a-searcher"]
    assert json.loads(json.dumps([row.to_dict() for row in rows]))[2]["epochs"] == 3
    assert count_states(rows) == "2 pending, 1 running"
    assert count_states([TrialProgress("t", Outcome.STOPPED, 1, 2)] * 1200) == "1,200 stopped"
