"""A sweep: Ray Tune over the trials of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune import ResultGrid, TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback

from .allocation import TRIAL_MEMORY
from .training.metrics import TOP1
from .trial import SweepContext, run_trial


def run_sweep(context: SweepContext, trial_ids: Sequence[str]) -> ResultGrid:
    """Run trials, as many at a time as fit beside each other whichever they are.

    One that fails does not end the others; its error is in the result.

    Tune starts afresh in each job, over the trials that the tracking server does not know as completed: its own state
    is written piecemeal, and would bring the former job's concurrency back.
    """
    request = context.request
    trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), {"memory": TRIAL_MEMORY})
    tuner = Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(trial_ids))},
        tune_config=TuneConfig(
            metric=TOP1,
            mode="max",
            max_concurrent_trials=context.shares.concurrent,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=request.job, storage_path=f"{request.storage}/tune", verbose=0, callbacks=[JsonLoggerCallback()]
        ),
    )
    return tuner.fit()


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
