"""What early stopping saves, and what it misses: 16 configurations on the digits, trained once and scheduled often.

`python -m effnet_cluster.benchmarks.stopping --curves FILE.json` trains each configuration to its end, without an
engine, and keeps the curves of its validation in the file. Then Ray Tune runs our sweep over trials that replay these
curves, two at a time, under each scheduler. A training is a function of its seed, so what a scheduler sees is what it
would see of real trials.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from ..datasets import DIGITS, open_dataset
from ..orchestration.plan import Plan, make_plan
from ..orchestration.running.schedulers import PERCENT
from ..orchestration.scheduling import starting_order
from ..orchestration.search.sources import PlannedSource
from ..orchestration.spec import ExperimentSpec
from ..orchestration.training.job import TrainingJob, TrialPlan
from ..orchestration.training.metrics import EPOCH, TOP1
from .alone import train_alone
from .unrecorded import run_unrecorded

VARIANT, EPOCHS = "b0-w0.25-d0.25", 8
GRID = {"lr": [1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2], "weight_decay": [0.0, 0.1]}
# Rungs at one and at three of the eight epochs.
SCHEDULERS: dict[str, dict[str, Any]] = {
    "asha": {"name": "asha", "min_share": 0.125, "reduction": 3},
    "median": {"name": "median", "min_share": 0.25},
}
Curves = Mapping[str, list[float]]
"""Validation top-1 after each epoch, by trial."""


class Result(NamedTuple):
    """Of one scheduler and seed: the best top-1 of a trial that ended, that of the whole grid, and its share of the
    grid's epochs."""

    scheduler: str
    seed: int
    found: float
    best: float
    epochs: float


def plan_of(seed: int, scheduling: Mapping[str, Any], cache: Path) -> Plan:
    """The 16 trials of one seed."""
    recipe = {"epochs": EPOCHS} | GRID
    fields = {"name": "stopping", "variants": VARIANT, "seeds": [seed], "recipe": recipe, "scheduling": scheduling}
    return make_plan(ExperimentSpec.parse(fields), open_dataset(DIGITS, cache, typed=False))


def train(trial: TrialPlan, plan: Plan, cache: Path) -> list[float]:
    """Train one trial on one core; returns its curve."""
    torch.set_num_threads(1)
    curve: list[float] = []
    with tempfile.TemporaryDirectory() as storage:
        job = TrainingJob(
            trial=trial,
            execution=plan.spec.execution,
            data=DIGITS,
            data_digest=plan.data_digest,
            storage=storage,
            cache_root=str(cache),
        )
        train_alone(job, report=lambda metrics: curve.append(metrics[TOP1]))
    return curve


class Replay(tune.Trainable):  # type: ignore[misc]
    """A trial that reports a curve which is known."""

    def setup(self, config: dict[str, Any], context: Any) -> None:
        """Called by Tune."""
        self._curve, self._epoch = context.curves[self.trial_name], 0

    def step(self) -> dict[str, Any]:
        """The next epoch; all take as long."""
        if self._epoch == EPOCHS:
            return {RESULT_DUPLICATE: True}
        time.sleep(0.3)
        self._epoch += 1
        return {EPOCH: self._epoch, PERCENT: 100 * self._epoch / EPOCHS, TOP1: self._curve[self._epoch - 1]}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Called by Tune when it stops or pauses the trial."""
        return {"epoch": self._epoch}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called by Tune when the trial goes on."""
        self._epoch = checkpoint["epoch"]


class _Counted(PlannedSource):
    """Adds up what the trials have trained."""

    def __init__(self, trials: Iterable[TrialPlan]) -> None:
        super().__init__(tuple(trials))
        self.shares: dict[str, float] = {}

    def ended(self, trial_id: str, outcome: str, values: Mapping[str, float] | None = None) -> None:
        super().ended(trial_id, outcome, values)
        self.shares[trial_id] = (values or {})["share"]


def schedule(name: str, seed: int, curves: Curves, folder: Path) -> Result:
    """Run the sweep of one seed over its curves; Ray must be up."""
    plan = plan_of(seed, SCHEDULERS[name], folder / "cache")
    source = _Counted(starting_order(plan.trials, plan.spec.scheduling))
    run_unrecorded(plan, f"{name}-{seed}", folder, source, Replay, curves=dict(curves))
    found = max(curves[trial][-1] for trial, share in source.shares.items() if share == 1)
    best = max(curve[-1] for curve in curves.values())
    return Result(name, seed, found, best, statistics.mean(source.shares.values()))


def make_parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(prog="python -m effnet_cluster.benchmarks.stopping", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--curves", type=Path, required=True, help="JSON file that keeps the curves, and may have some")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Train, schedule, and print a line per scheduler and seed."""
    options = make_parser().parse_args(arguments)
    curves: dict[str, list[float]] = json.loads(options.curves.read_text()) if options.curves.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for seed in range(options.seeds):
            plan = plan_of(seed, {}, folder / "cache")
            missing = [trial for trial in plan.trials if trial.trial_id not in curves]
            with ProcessPoolExecutor(2) as pool:
                found = pool.map(train, missing, [plan] * len(missing), [folder / "cache"] * len(missing))
                curves |= {trial.trial_id: curve for trial, curve in zip(missing, found, strict=True)}
            options.curves.write_text(json.dumps(curves))
        ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
        try:
            for name in SCHEDULERS:
                for seed in range(options.seeds):
                    trials = [trial.trial_id for trial in plan_of(seed, {}, folder / "cache").trials]
                    print(schedule(name, seed, {trial: curves[trial] for trial in trials}, folder), flush=True)
        finally:
            ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
