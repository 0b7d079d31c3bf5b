"""A trial: the function that Ray Tune schedules, which runs one Ray Train job and answers for its MLflow run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from .plan import TrialPlan
from .tracking import Outcome, Tracker

if TYPE_CHECKING:
    from ..datasets import OnCorrupt


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
    workers: int
    cpus_per_worker: int
    use_gpu: bool
    loader_workers: int
    cache_limit: int | None
    on_corrupt: OnCorrupt
    max_failures: int


def run_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Train one trial to its end; restarted after a lost driver, it goes on from the trial's latest checkpoint.

    Args:
        config: Tune's configuration with the key `trial`, a `TrialPlan.to_dict()`.
        context: what the sweep's trials share.

    Raises:
        ray.train.TrainingFailedError: the workers failed more often than allowed, or in a way that is final.
    """
    from .train_loop import TrialJob, train_worker

    trial = TrialPlan.from_dict(config["trial"])
    tracker = Tracker(context.tracking_uri, context.experiment)
    run_id = tracker.ensure_trial(
        trial,
        context.parent_id,
        {"data": context.data, "data_digest": context.data_digest, "workers": context.workers},
    )
    job = TrialJob(
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
    )
    resources = {"CPU": float(context.cpus_per_worker), **({"GPU": 1.0} if context.use_gpu else {})}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=job.to_dict(),
        scaling_config=ScalingConfig(
            num_workers=context.workers, use_gpu=context.use_gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if context.use_gpu else "gloo"),
        run_config=RunConfig(
            # Name and path are the trial's for ever: Ray Train restores by them.
            name=trial.trial_id,
            storage_path=f"{context.storage}/trials",
            failure_config=FailureConfig(max_failures=context.max_failures),
            # The best and, as Ray Train always keeps it, the latest.
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="val/top1"),
            callbacks=[TuneReportCallback()],
            # Its INFO lines repeat every report of every rank into the job's log, beside ours.
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        tracker.finish(run_id, Outcome.FAILED, reason=_first_line(error))
        raise
    tracker.finish(run_id, Outcome.COMPLETED)


def _first_line(error: Exception) -> str:
    """The line of a remote traceback that says what happened: its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
