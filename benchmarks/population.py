"""Whether population based training finds a better model than fixed schedules do on the same budget, on the digits.

`python -m effnet_cluster.benchmarks.population` draws learning rates and weight decays, trains them once with their
fixed schedules and once as a population, each repetition from its own seed. Every trial trains in Tune's process for
it, on one core, with our trainer, checkpoints and exchanges, but without Ray Train and MLflow.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from ..datasets import DIGITS, open_dataset
from ..orchestration.plan import Plan, make_plan
from ..orchestration.running.exchange import Exchanges
from ..orchestration.running.fork_server import fork_server
from ..orchestration.running.trial import Trial
from ..orchestration.search.sources import PlannedSource
from ..orchestration.spec import ExperimentSpec
from ..orchestration.training.errors import PreemptedError
from ..orchestration.training.job import TrainingJob
from ..orchestration.training.metrics import EPOCH, TOP1, VAL_LOSS
from ..orchestration.training.storage import Storage
from .alone import train_alone
from .unrecorded import run_unrecorded

VARIANT, EPOCHS, TRIALS = "b0-w0.25-d0.25", 8, 8
RANGES = {"lr": "1e-4..3e-2:log", "weight_decay": "1e-6..1e-1:log"}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "fixed": {"name": "none"},
    "pbt": {"name": "pbt", "min_share": 0.25, "exchanged": 0.25},
}

_LAST = "last.json"


class Result(NamedTuple):
    """Of one repetition: the trials' best top-1 and lowest loss at their ends, on the validation images, the median
    trial's top-1, and how often weights were taken over."""

    scheduler: str
    seed: int
    top1: float
    loss: float
    median: float
    exchanges: int


def plan_of(seed: int, scheduling: Mapping[str, Any], cache: Path) -> Plan:
    """The trials of one repetition; the same whatever the scheduler."""
    search = {"method": "random", "trials": TRIALS, "sweep": RANGES}
    fields = {"name": "population", "variants": VARIANT, "seeds": [seed], "recipe": {"epochs": EPOCHS}}
    spec = ExperimentSpec.parse(fields | {"search": search, "scheduling": scheduling})
    return make_plan(spec, open_dataset(DIGITS, cache, typed=False))


class _LoneTraining:
    """What `TrialTraining` is to a trial, in the trial's own process and without a run."""

    cancelled = False

    def __init__(self, job: TrainingJob) -> None:
        self._job, self._leaving = job, threading.Event()
        self._reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def next_report(self) -> dict[str, Any] | None:
        if self._thread.ident is None:
            self._thread.start()
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return None if report is None else dict(report)

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)
        try:
            train_alone(self._job, report=self._reports.put, should_stop=self._leaving.is_set)
            self._reports.put(None)
        except PreemptedError:
            pass
        except BaseException as error:
            self._reports.put(error)


class Member(Trial):
    """A trial that trains in its own process and has no run."""

    def step(self) -> dict[str, Any]:
        """The next epoch; the latest one's metrics lie beside the checkpoints."""
        report = super().step()
        if EPOCH in report:
            self._storage_of(self.trial_name).write(_LAST, json.dumps(report).encode())
        return report

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Called by Tune where a paused trial goes on."""
        if self._exchanges is not None and checkpoint is not None and checkpoint["trial"] != self._plan.trial_id:
            self._take_over(self._exchanges, checkpoint)

    def _make_training(self) -> Any:
        request = self._context.request
        return _LoneTraining(
            TrainingJob(
                trial=self._plan,
                execution=request.spec.execution,
                data=DIGITS,
                data_digest=request.plan.data_digest,
                storage=request.storage_of(self._plan.trial_id),
                cache_root=request.cache_root,
                goes_on_from=tuple(one.digest for one in self._exchanges.all()) if self._exchanges else (),
            )
        )


def run(name: str, seed: int, folder: Path) -> Result:
    """Train the trials of one repetition; Ray must be up, and nothing of that name in the folder."""
    plan = plan_of(seed, SCHEDULERS[name], folder / "cache")
    request = run_unrecorded(plan, f"{name}-{seed}", folder, PlannedSource(plan.trials), Member)
    storages = [Storage(request.storage_of(trial.trial_id)) for trial in plan.trials]
    last = [json.loads(storage.read(_LAST)) for storage in storages]
    if any(report[EPOCH] != EPOCHS for report in last):
        raise RuntimeError("not every trial has trained all epochs")
    top1s = [report[TOP1] for report in last]
    lowest, exchanges = min(report[VAL_LOSS] for report in last), sum(len(Exchanges(one).all()) for one in storages)
    return Result(name, seed, max(top1s), lowest, statistics.median(top1s), exchanges)


def main(arguments: list[str] | None = None) -> int:
    """Train, and print a line per scheduler and repetition."""
    parser = argparse.ArgumentParser(prog="python -m effnet_cluster.benchmarks.population", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, fork_server() as python:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            runtime_env={"py_executable": python},
        )
        try:
            for seed in range(options.repetitions):
                for name in SCHEDULERS:
                    print(run(name, seed, Path(folder)), flush=True)
        finally:
            ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
