"""Two experiments that are submitted at once share the cluster, and both end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from .conftest import Cli, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
NAMES = ("left", "right")


def test_two_experiments_submitted_at_once_both_end(cli: Cli) -> None:
    def submit(name: str) -> None:
        cli(
            *("submit", "--variants", "b0-w0.25-d0.25", "--seeds", "0,1", "--epochs", "1", "--cpus-per-worker", "1"),
            *("--name", name, "--no-probe", "--detach"),
        )

    def has_ended(name: str) -> bool:
        with suppress(ValueError):  # its driver has not begun
            return cli.parent_run(name).data.tags.get("outcome", "running") != "running"
        return False

    with ThreadPoolExecutor() as pool:
        list(pool.map(submit, NAMES))
    wait_for(lambda: all(map(has_ended, NAMES)), 600, "the end of both")
    for name in NAMES:
        assert cli.parent_run(name).data.tags["outcome"] == "completed"
        assert {run.data.tags["outcome"] for run in cli.trial_runs(name).values()} == {"completed"}
        assert len(cli.trial_runs(name)) == 2
        assert cli("verify", name).returncode == 0
    began = {name: min(run.info.start_time for run in cli.trial_runs(name).values()) for name in NAMES}
    ended = {name: max(run.info.end_time for run in cli.trial_runs(name).values()) for name in NAMES}
    assert began["right"] < ended["left"], "one after the other"
    assert began["left"] < ended["right"], "one after the other"
