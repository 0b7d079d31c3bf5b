"""One experiment through its states: a trial is stopped alone, shown, resumed; then the experiment is extended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Cli, assert_no_step_twice, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAME, VARIANT, EPOCHS = "states", "b0-w0.25-d0.25", 10
FIRST, SECOND, THIRD = (f"digits-{VARIANT}-silu-s{seed}" for seed in (0, 1, 2))


def shown(cli: Cli) -> dict[str, dict[str, Any]]:
    found = json.loads(cli("show", NAME, "--json").stdout)
    return {row["trial"]: row for row in found["trials"]} | {"": {"state": found["state"]}}


def epochs_of(cli: Cli, trial: str) -> float:
    run = cli.trial_runs(NAME).get(trial)
    return run.data.metrics.get("epoch", 0.0) if run else 0.0


def test_a_trial_is_stopped_alone_and_resumed_and_an_experiment_extended_without_repeating_anything(cli: Cli) -> None:
    cli(
        *("submit", "--variants", VARIANT, "--seeds", "0-2", "--epochs", str(EPOCHS), "--max-concurrent", "1"),
        *("--cpus-per-worker", "1", "--name", NAME, "--detach"),
    )
    # Not by `show`, which would take a core of those that train.
    wait_for(lambda: epochs_of(cli, FIRST) > 0, 360, "an epoch")
    rows = shown(cli)
    assert {name: row["state"] for name, row in rows.items()} == {
        FIRST: "running",
        SECOND: "pending",
        THIRD: "pending",
        "": "running",
    }
    assert rows[FIRST]["rest_s"] > 0
    cli("stop", NAME, FIRST)  # it saves and ends, and the second one starts
    cli("stop", NAME, THIRD)  # it never starts
    wait_for(lambda: cli.outcome(NAME, FIRST) == "cancelled", 180, "the end of the first trial")
    wait_for(lambda: cli.outcome(NAME, SECOND) == "completed", 900, "the end of the second trial")
    wait_for(lambda: shown(cli)[""]["state"] != "running", 240, "the end of the experiment")
    rows = shown(cli)
    assert {name: row["state"] for name, row in rows.items()} == {
        FIRST: "cancelled",
        SECOND: "completed",
        THIRD: "cancelled",
        "": "cancelled",
    }
    assert rows[THIRD]["epoch"] == 0
    assert 0 < rows[FIRST]["epoch"] < EPOCHS

    # The finished one gets one epoch more, and the others all of them; nothing is done or logged twice.
    before = cli.trial_runs(NAME)
    cli("extend", NAME, "--epochs", str(EPOCHS + 1))
    rows, after = shown(cli), cli.trial_runs(NAME)
    assert {row["state"] for row in rows.values()} == {"completed"}
    assert {row["epoch"] for name, row in rows.items() if name} == {EPOCHS + 1}
    assert {name: run.info.run_id for name, run in after.items()} == {
        name: run.info.run_id for name, run in before.items()
    }
    for run in after.values():
        assert_no_step_twice(cli.client(), run)
        epochs = cli.client().get_metric_history(run.info.run_id, "val/top1")
        assert sorted(point.step for point in epochs) == list(range(1, EPOCHS + 2))
    log = cli("logs", NAME, SECOND).stdout
    assert f"resumed after epoch {EPOCHS}" in log
    assert cli("verify", NAME).returncode == 0
