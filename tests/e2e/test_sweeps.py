"""A search that stops trials early, whose driver is killed on the way: each trial ends once, in one run."""

from __future__ import annotations

import json
import signal

import psutil
import pytest

from .conftest import Cli, assert_no_step_twice, wait_for
from .kills import checkpoints, find_driver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAME, TRIALS, EPOCHS = "searched", 4, 4


def test_a_search_with_early_stops_survives_its_driver(cli: Cli) -> None:
    cli(
        *("submit", "--variants", "b0-w0.5-d0.5", "--workers", "2", "--cpus-per-worker", "1", "--name", NAME),
        *("--search", "optuna", "--trials", str(TRIALS), "--sweep", "lr=1e-5..3e-2:log", "--epochs", str(EPOCHS)),
        *("--search-seed", "2"),  # a good learning rate, then three that are too small
        *("--scheduler", "asha", "--min-share", "0.25", "--reduction", "2", "--detach"),
    )
    wait_for(lambda: len(cli.trial_runs(NAME)) == 2, 600, "the second trial")
    second = max(cli.trial_runs(NAME).values(), key=lambda run: run.info.start_time)
    wait_for(lambda: bool(checkpoints(cli, NAME, second.data.tags["effnet.trial"])), 300, "its checkpoint")
    driver = find_driver(psutil.Process(cli.services()["ray"]["pid"]))
    driver.send_signal(signal.SIGKILL)
    wait_for(lambda: cli.parent_run(NAME).data.tags["outcome"] != "running", 120, "somebody to see it")
    assert cli.parent_run(NAME).data.tags["outcome"] == "interrupted"
    before = {name: run.info.run_id for name, run in cli.trial_runs(NAME).items()}

    cli("resume", NAME)
    runs = cli.trial_runs(NAME)
    assert len(runs) == TRIALS
    assert before.items() <= {name: run.info.run_id for name, run in runs.items()}.items()
    assert len({run.data.params["lr"] for run in runs.values()}) == TRIALS
    outcomes = {name: run.data.tags["outcome"] for name, run in runs.items()}
    assert set(outcomes.values()) == {"completed", "stopped"}
    shown = json.loads(cli("show", NAME, "--json").stdout)
    assert {row["trial"]: row["state"] for row in shown["trials"]} == outcomes
    for name, run in runs.items():
        assert_no_step_twice(cli.client(), run)
        assert run.info.status == "FINISHED"
        epochs = run.data.metrics["epoch"]
        assert (epochs < EPOCHS) == (outcomes[name] == "stopped")
        if outcomes[name] == "stopped":
            assert run.data.tags["outcome.reason"].startswith("asha: at rung ")
            assert checkpoints(cli, NAME, name)
    assert cli.parent_run(NAME).data.tags["outcome"] == "completed"
    assert cli("verify", NAME).returncode == 0
