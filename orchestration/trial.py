"""A trial: the function that Ray Tune schedules, which runs one Ray Train job and answers for its MLflow run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer

from .backend import ForgivingTorchConfig
from .errors import EngineError
from .faults import Fault, FaultPolicy, GiveUp, classify, decisive
from .plan import TrialPlan
from .ray_internals import ElasticTrainer, ReportToTune
from .tracking.runs import Outcome, Tracker
from .training.job import TrialJob
from .training.preemption import SaveBeforeTheEnd

if TYPE_CHECKING:
    from ..datasets import OnCorrupt


class TrialFailedError(EngineError):
    """A trial has ended without a result, for the reason in the message."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share."""

    experiment: str
    tracking_uri: str
    parent_id: str
    storage: str
    cache_root: str
    data: str
    data_digest: str
    spec_digest: str
    worker_counts: tuple[int, ...]
    cpus_per_worker: int
    use_gpu: bool
    loader_workers: int
    cache_limit: int | None
    on_corrupt: OnCorrupt
    max_failures: int
    checkpoint_steps: int


def run_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Train one trial to its end; restarted after a lost driver, it goes on from the trial's latest checkpoint.

    Args:
        config: Tune's configuration with the key `trial`, a `TrialPlan.to_dict()`.
        context: what the sweep's trials share.

    Raises:
        TrialFailedError: the workers failed more often than allowed, or in a way that would come again.
    """
    trial = TrialPlan.from_dict(config["trial"])
    tracker = Tracker(context.tracking_uri, context.experiment)
    run_id = tracker.ensure_trial(
        trial,
        context.parent_id,
        {"data": context.data, "data_digest": context.data_digest, "workers": _workers_text(context.worker_counts)},
    )
    policy, divisor = FaultPolicy(context.max_failures), 1
    while True:
        try:
            _trainer(_job(trial, context, run_id, divisor), context).fit()
        except TrainingFailedError as error:
            fault, reason = _fault(error)
            decision = policy.decide(fault, reason)
            if isinstance(decision, GiveUp):
                tracker.finish(run_id, Outcome.FAILED, reason=decision.reason)
                raise TrialFailedError(decision.reason) from error
            divisor = decision.micro_batch_divisor
            half = f", micro-batches divided by {divisor}" if divisor > 1 else ""
            print(f"[{trial.trial_id}] workers ended ({fault}); going on from the last checkpoint{half}", flush=True)
        except Exception as error:
            tracker.finish(run_id, Outcome.FAILED, reason=str(error) or type(error).__name__)
            raise
        else:
            tracker.finish(run_id, Outcome.COMPLETED)
            return


def _fault(error: TrainingFailedError) -> tuple[Fault, BaseException]:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return decisive(error.worker_failures)
    return classify(error), error


def _job(trial: TrialPlan, context: TrialContext, run_id: str, divisor: int) -> TrialJob:
    return TrialJob(
        trial=trial,
        data=context.data,
        data_digest=context.data_digest,
        loader_workers=context.loader_workers,
        cache_limit=context.cache_limit,
        on_corrupt=context.on_corrupt,
        spec_digest=context.spec_digest,
        tracking_uri=context.tracking_uri,
        experiment=context.experiment,
        run_id=run_id,
        cache_root=context.cache_root,
        storage=f"{context.storage}/trials/{trial.trial_id}",
        checkpoint_steps=context.checkpoint_steps,
        micro_batch_divisor=divisor,
    )


def _trainer(job: TrialJob, context: TrialContext) -> TorchTrainer:
    from .training.train_loop import train_worker

    resources = {"CPU": float(context.cpus_per_worker), **({"GPU": 1.0} if context.use_gpu else {})}
    low, high = context.worker_counts[0], context.worker_counts[-1]
    return ElasticTrainer(
        context.worker_counts,
        train_worker,
        train_loop_config=job.to_dict(),
        scaling_config=ScalingConfig(
            num_workers=high if low == high else (low, high),
            use_gpu=context.use_gpu,
            resources_per_worker=resources,
        ),
        torch_config=ForgivingTorchConfig(backend="nccl" if context.use_gpu else "gloo"),
        run_config=RunConfig(
            name=job.trial.trial_id,
            storage_path=f"{context.storage}/trials",
            # Ray Train would try again whatever the error; `faults` tells those apart for which that makes sense.
            failure_config=FailureConfig(max_failures=0),
            callbacks=[ReportToTune(), SaveBeforeTheEnd()],
            # Its INFO lines repeat every report of every rank into the job's log, beside ours.
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _workers_text(counts: tuple[int, ...]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}:{counts[-1]}"
