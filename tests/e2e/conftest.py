"""The installed command against real engines: a home of its own, its services on free ports, stopped at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

COMMAND = str(Path(sys.executable).with_name("effnet-cluster"))


@dataclass(frozen=True)
class Cli:
    """Runs `effnet-cluster` in one home, from a folder that is not the checkout, as a user would."""

    home: Path

    def __call__(self, *args: str, timeout: float = 1800, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [COMMAND, *args], capture_output=True, text=True, timeout=timeout, cwd=self.home, env=self.env, check=False
        )
        assert not check or done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def env(self) -> dict[str, str]:
        # Each home would measure this machine anew, which takes ten seconds.
        probe = {"EFFNET_CLUSTER_SUBMIT_PROBE": "false"}
        return {**os.environ, **probe, "EFFNET_CLUSTER_HOME": str(self.home), "NO_COLOR": "1"}

    def services(self) -> dict[str, dict[str, Any]]:
        status: dict[str, dict[str, Any]] = json.loads(self("status", "--json").stdout)
        return status

    def client(self) -> MlflowClient:
        return MlflowClient(self._mlflow_url)

    @cached_property
    def _mlflow_url(self) -> str:
        return str(self.services()["mlflow"]["url"])

    def trial_runs(self, experiment: str) -> dict[str, Run]:
        """The child runs by trial id; fails if a trial has two."""
        client = self.client()
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return {}
        runs = client.search_runs([found.experiment_id], "tags.`effnet.role` = 'trial'")
        by_trial = {run.data.tags["effnet.trial"]: run for run in runs}
        assert len(by_trial) == len(runs), "a trial has more than one run"
        return by_trial

    def outcome(self, experiment: str, trial: str) -> str:
        """How a trial has ended; `running` also before it has a run."""
        run = self.trial_runs(experiment).get(trial)
        return run.data.tags["outcome"] if run else "running"

    def parent_run(self, experiment: str) -> Run:
        client = self.client()
        (parent,) = client.search_runs(
            [client.get_experiment_by_name(experiment).experiment_id], "tags.`effnet.role` = 'sweep'"
        )
        return parent


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    cli = Cli(tmp_path_factory.mktemp("home"))
    cli("up", timeout=180)
    yield cli
    cli("down", "--force", timeout=180)
    assert cli.services() == {}


DEMO = "demo"
DEMO_EPOCHS = 5
DEMO_VARIANTS = ("b0-w0.5-d0.5", "b1-w0.5-d0.5")


@pytest.fixture(scope="session")
def demo(cli: Cli) -> subprocess.CompletedProcess[str]:
    """What `make demo` runs, with a sixth of its arithmetic: thinner networks, fewer epochs."""
    return cli(
        *("submit", "--variants", ",".join(DEMO_VARIANTS), "--activations", "silu,leaky_relu", "--workers", "2"),
        *("--epochs", str(DEMO_EPOCHS), "--name", DEMO),
    )


def wait_for(condition: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.5)


def assert_no_step_twice(client: MlflowClient, run: Run) -> None:
    """No metric of the run has two points at a step."""
    for name in client.get_run(run.info.run_id).data.metrics:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert len(steps) == len(set(steps)), f"{name} has a step twice"
