"""A trial: the function that Ray Tune schedules, which runs one Ray Train job and answers for its MLflow run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError

from .allocation import Shares, WorkerResources
from .errors import EngineError, UserError
from .faults import Fault, FaultPolicy, GiveUp, cause, classify, decisive
from .logs import configure_logging
from .request import ExperimentRequest
from .tracking.records import Outcome
from .tracking.runs import Tracker
from .tracking.server import PATIENCE_S
from .tracking.sink import MlflowSink
from .training.job import TrainingJob, TrialPlan

_log = logging.getLogger(__name__)


class TrialFailedError(EngineError):
    """A trial has ended without a result, for the reason in the message."""


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share; `sweep_id` is the sweep's MLflow run, `shares` says what each of them gets."""

    request: ExperimentRequest
    sweep_id: str
    shares: Shares


def run_trial(config: dict[str, Any], context: SweepContext) -> None:
    """Train one trial to its end; restarted after a lost driver, it goes on from the trial's latest checkpoint.

    Args:
        config: Tune's configuration; `trial` is the id of a trial of the plan.
        context: what the sweep's trials share.

    Raises:
        TrialFailedError: the workers failed more often than allowed, or in a way that would come again.
    """
    request = context.request
    execution, trial = request.spec.execution, request.plan.trial(config["trial"])
    configure_logging(trial.trial_id)
    tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
    resources = context.shares.resources_of(trial)
    job = _job(context, trial, resources)
    predicted = context.shares.cost_of(trial).seconds
    run_id = tracker.ensure_trial(job, context.sweep_id, predicted)
    policy = FaultPolicy(execution.max_failures)
    while True:
        try:
            _trainer(job, context, run_id, resources).fit()
        except TrainingFailedError as error:
            fault, reason = _fault(error)
            decision = policy.decide(fault, reason)
            if isinstance(decision, GiveUp):
                tracker.finish(run_id, Outcome.FAILED, reason=decision.reason)
                raise TrialFailedError(decision.reason) from error
            divisor = decision.micro_batch_divisor
            job = job.model_copy(update={"micro_batch_divisor": divisor})
            half = f", micro-batches divided by {divisor}" if divisor > 1 else ""
            _log.warning("workers ended (%s); going on from the last checkpoint%s", fault, half)
        except Exception as error:
            tracker.finish(run_id, Outcome.FAILED, reason=str(error) or type(error).__name__)
            raise
        else:
            tracker.finish(run_id, Outcome.COMPLETED)
            return


def _fault(error: TrainingFailedError) -> tuple[Fault, BaseException]:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return decisive(error.worker_failures)
    return classify(error), cause(error)


def _job(context: SweepContext, trial: TrialPlan, resources: WorkerResources) -> TrainingJob:
    request = context.request
    found = {"cpus_per_worker": resources.cpus, "device": "gpu" if resources.use_gpu else "cpu"}
    return TrainingJob(
        trial=trial,
        execution=request.spec.execution.model_copy(update=found),
        data=request.spec.data,
        data_digest=request.plan.data_digest,
        spec_digest=request.plan.spec_digest,
        storage=f"{request.storage}/trials/{trial.trial_id}",
        cache_root=request.cache_root,
    )


def _trainer(job: TrainingJob, context: SweepContext, run_id: str, resources: WorkerResources) -> Any:
    """Ray's trainer of a job: with the controller in this process, or as Ray promises it."""
    request, counts = context.request, resources.counts
    fewest, most = counts[0], counts[-1]
    unsent = Path(request.cache_root, "unsent")
    sink = MlflowSink(request.tracking_uri, request.spec.name, request.uid, run_id, unsent)
    config = {"job": job, "sink": sink}
    scaling = ScalingConfig(
        num_workers=most if fewest == most else (fewest, most),
        use_gpu=resources.use_gpu,
        resources_per_worker={name: float(amount) for name, amount in resources.per_worker.items()},
    )
    run = RunConfig(
        name=job.trial.trial_id,
        storage_path=f"{request.storage}/trials",
        # Ray Train would try again whatever the error, and without end if workers are lost while they start; `faults`
        # tells those errors apart for which that makes sense.
        failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        # Its INFO lines repeat every report of every rank into the job's log, beside ours.
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    if job.execution.controller == "trial":
        from . import ray_internals

        config["is_preempted"] = ray_internals.is_preempted
        return ray_internals.trial_trainer(config, counts, scaling, run)
    from ray.train.torch import TorchTrainer  # imports torch
    from ray.tune.integration.ray_train import TuneReportCallback

    from . import train_worker

    left_out = set(range(fewest, most + 1)) - set(counts)
    if left_out:
        raise UserError(
            f"--controller actor cannot leave out {min(left_out)} workers, which do not share the global batch "
            f"{job.trial.recipe.global_batch} equally; use --controller trial, or a fixed number of workers"
        )
    config["is_preempted"] = train_worker.is_preempted
    run.callbacks = [TuneReportCallback()]
    return TorchTrainer(train_worker.train_worker, train_loop_config=config, scaling_config=scaling, run_config=run)
