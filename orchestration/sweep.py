"""A sweep: Ray Tune over the trials of a plan."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import ray
from ray import tune
from ray.tune import ResultGrid, TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback

from .errors import UserError
from .plan import Plan
from .training.metrics import TOP1
from .trial import SweepContext, WorkerResources, run_trial

# What a trial takes beside its workers: its own process (250 MiB), and Ray Train's synchronization actor and cleaner
# (190 each). No part of a core: that would leave the trial's own workers without their last whole one.
_TRIAL_MEMORY = 640 * 1024**2


def run_sweep(context: SweepContext, concurrent: int) -> ResultGrid:
    """Run every trial of a plan, at most `concurrent` at a time; goes on where an earlier driver of it stopped.

    A trial that fails does not end the others; its error is in the result.
    """
    trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), {"memory": _TRIAL_MEMORY})
    storage = context.request.storage
    path = f"{storage}/tune"
    if Tuner.can_restore(path):
        tuner = Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = Tuner(
            trainable,
            param_space={"trial": tune.grid_search([trial.trial_id for trial in context.request.plan.trials])},
            tune_config=TuneConfig(
                metric=TOP1,
                mode="max",
                max_concurrent_trials=concurrent,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=PurePath(path).name, storage_path=storage, verbose=0, callbacks=[JsonLoggerCallback()]
            ),
        )
    return tuner.fit()


def worker_resources(plan: Plan) -> tuple[WorkerResources, int]:
    """What each worker gets, and how many trials run at a time, on the cluster that Ray is connected to.

    As many trials run at once as fit; what cores are left over are shared out among their workers.

    Raises:
        UserError: not even one trial fits into the cluster.
    """
    spec, execution = plan.spec, plan.spec.execution
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 0))
    use_gpu = gpus > 0 if execution.device == "auto" else execution.device == "gpu"
    fewest, most, each = spec.worker_counts[0], spec.worker_counts[-1], execution.cpus_per_worker or 1
    if use_gpu and gpus < fewest:
        raise UserError(f"--workers {fewest} needs {fewest} GPUs, the cluster has {gpus}; use fewer workers")
    if cpus < fewest * each:
        raise UserError(
            f"--workers {fewest} needs {fewest * each} CPU cores, the cluster has {cpus}; use fewer workers"
        )
    # An elastic trial is shared out as if it had all the workers that it can get here.
    workers = min(most, cpus // each, gpus if use_gpu else most)
    fitting = min(cpus // (workers * each), gpus // workers) if use_gpu else cpus // (workers * each)
    concurrent = max(1, min(fitting, len(plan.trials), execution.max_concurrent or fitting))
    return WorkerResources(execution.cpus_per_worker or max(1, cpus // (concurrent * workers)), use_gpu), concurrent


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
