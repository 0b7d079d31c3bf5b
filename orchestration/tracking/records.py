"""A trial as MLflow knows it: the parameters that are written of it, and the typed value that is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UserError
from ..training import metrics
from ..training.job import TrainingJob
from ..training.settings import params_of
from . import tags

if TYPE_CHECKING:
    from mlflow.entities import Run

    from ...datasets import Tail


class Outcome(StrEnum):
    """The state of a trial, or of an experiment as a whole: the same words everywhere.

    planned → pending → running → completed | stopped | cancelled | failed | interrupted

    A trial is planned until a job is there to run it. It waits in `pending` for its turn, where a scheduler that pauses
    it also puts it back. `resume` makes cancelled, failed and interrupted trials pending again, `extend` completed ones
    whose epochs grow; those that are stopped are finished. A trial that has never run has no run in MLflow, whose own
    statuses are fewer: a run's tag has the state itself.
    """

    PLANNED = "planned"
    """No job is there to run it."""
    PENDING = "pending"
    """It waits for its turn."""
    RUNNING = "running"
    COMPLETED = "completed"
    """All of its epochs are trained, and its model is logged."""
    STOPPED = "stopped"
    """A scheduler has ended it early."""
    CANCELLED = "cancelled"
    """The user has ended it."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Its driver, the process of the experiment's job, was gone before it could end it."""

    @property
    def is_terminal(self) -> bool:
        """Whether the trial logs no more unless somebody resumes or extends the experiment."""
        return self not in (Outcome.PLANNED, Outcome.PENDING, Outcome.RUNNING)

    @property
    def is_finished(self) -> bool:
        """Whether `resume` leaves the trial as it is."""
        return self in (Outcome.COMPLETED, Outcome.STOPPED)

    @property
    def run_status(self) -> str:
        """MLflow's nearest run status."""
        return _RUN_STATUS[self]

    @classmethod
    def of(cls, run: Run) -> Outcome:
        """Of a sweep's or a trial's run; running before it has any."""
        return cls(run.data.tags.get(tags.OUTCOME, "running"))


_RUN_STATUS = {
    Outcome.PLANNED: "SCHEDULED",
    Outcome.PENDING: "SCHEDULED",
    Outcome.RUNNING: "RUNNING",
    Outcome.COMPLETED: "FINISHED",
    Outcome.STOPPED: "FINISHED",
    Outcome.CANCELLED: "KILLED",
    Outcome.FAILED: "FAILED",
    Outcome.INTERRUPTED: "FAILED",
}


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has started. What its epochs measure is None before the first one has ended.

    Attributes:
        trial_id, run_id: its name, and the id of its run in MLflow.
        outcome, reason: its state, and in one line why it ended so; empty where that needs no reason.
        model_uri: MLflow's address of the trained model, once there is one.
        variant, activation, shortcut, seed: what tells it from the other trials of its sweep.
        image_size: edge of the network's input, in pixels.
        params, macs: of the network: number of parameters, multiply-adds per image.
        global_batch, shuffle_block, tail: what the order of its samples follows from, with the seed; see `TrialPlan`.
        epochs: that it is to train.
        data_digest: of the data set's manifest.
        swept: fields of its recipe in which the trials of its sweep differ, and their values.
        epochs_done: number of finished epochs.
        seconds: training time of these: without start-up, evaluation and what lies between restarts.
        predicted_seconds: from the trial's start to its end, as predicted when it started.
        best_top1: the best validation top-1 of any epoch, a fraction.
        top1, top5, epoch_loss, images_per_second: of the latest epoch; the loss and the speed are those of training.
        gradient_metrics: the metrics that are gradient norms, from the images to the classes.
        began, first_step, ended: when it last began to run, when its workers had taken their first step, and when it
            has ended, in seconds since 1970; None where that is not known or not so.
    """

    trial_id: str
    run_id: str
    outcome: Outcome
    reason: str
    model_uri: str | None
    variant: str
    activation: str
    shortcut: str
    seed: int
    image_size: int
    params: int
    macs: int
    global_batch: int
    shuffle_block: int
    tail: Tail
    epochs: int
    data_digest: str
    swept: Mapping[str, Any] = field(default_factory=dict)
    epochs_done: int = 0
    seconds: float = 0.0
    predicted_seconds: float | None = None
    best_top1: float | None = None
    top1: float | None = None
    top5: float | None = None
    epoch_loss: float | None = None
    images_per_second: float | None = None
    gradient_metrics: tuple[str, ...] = ()
    began: float | None = None
    ended: float | None = None
    first_step: float | None = None

    @property
    def final_top1(self) -> float | None:
        """The best top-1 of a trial that has completed, which others can be compared with; None of any other trial."""
        return self.best_top1 if self.outcome is Outcome.COMPLETED else None

    @property
    def start_up(self) -> float | None:
        """Seconds from when it last began to run to its first step; None where that is not known."""
        if self.began is None or self.first_step is None:
            return None
        return max(0.0, self.first_step - self.began)

    @property
    def elapsed(self) -> float | None:
        """Seconds from when it last began to run to its end; None where that is not known or not yet."""
        return None if self.began is None or self.ended is None else self.ended - self.began

    @classmethod
    def of(cls, run: Run) -> TrialRecord:
        """Parse a run that `trial_params` describe.

        Raises:
            UserError: a parameter is missing or none of ours.
        """
        found, given, measured = run.data.tags, run.data.params, run.data.metrics
        outcome = Outcome.of(run)
        predicted = found.get(tags.PREDICTED_SECONDS)
        try:
            return cls(
                trial_id=found[tags.TRIAL_ID],
                run_id=run.info.run_id,
                outcome=outcome,
                reason=found.get(tags.REASON, ""),
                model_uri=found.get(tags.MODEL_URI),
                variant=given["variant"],
                activation=given["activation"],
                shortcut=given["shortcut"],
                seed=int(given["seed"]),
                image_size=int(given["image_size"]),
                params=int(given["params"]),
                macs=int(given["macs"]),
                global_batch=int(given["global_batch"]),
                shuffle_block=int(given["shuffle_block"]),
                tail=given["tail"],
                epochs=int(found.get(tags.EPOCHS, given["epochs"])),
                data_digest=given["data_digest"],
                swept=json.loads(found.get(tags.SWEPT, "{}")),
                epochs_done=int(measured.get(metrics.EPOCH, 0)),
                seconds=measured.get(metrics.TRAIN_SECONDS, 0.0),
                predicted_seconds=float(predicted) if predicted else None,
                best_top1=measured.get(metrics.BEST_TOP1),
                top1=measured.get(metrics.TOP1),
                top5=measured.get(metrics.TOP5),
                epoch_loss=measured.get(metrics.EPOCH_LOSS),
                images_per_second=measured.get(metrics.IMAGES_PER_SECOND),
                gradient_metrics=tuple(sorted(filter(metrics.gradient_part, measured))),
                began=float(found[tags.BEGAN]) if tags.BEGAN in found else None,
                first_step=measured.get(metrics.FIRST_STEP_AT),
                ended=run.info.end_time / 1000 if outcome.is_terminal and run.info.end_time else None,
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"MLflow run {run.info.run_id} was not logged by this version of effnet-cluster ({error}); "
                "use the version that logged it, or delete the run"
            ) from None


class MetricPoint(NamedTuple):
    """A point of a metric's curve; `logged_at` is in seconds since 1970."""

    step: int
    value: float
    logged_at: float


def trial_params(job: TrainingJob) -> dict[str, Any]:
    """What describes a trial, flat, as MLflow parameters: columns of its compare view.

    Fields that are None are left out. The trial's own values win over what the recipe leaves open, such as `dropout`.
    """
    trial, model = job.trial, job.trial.model
    return {
        "data": job.data,
        "data_digest": job.data_digest,
        **params_of(job.execution),
        **params_of(trial.recipe),
        **trial.model_dump(exclude={"trial_id", "model", "recipe", "swept"}),
        "activation": model.activation,
        "shortcut": model.shortcut,
        **model.scales,
        "dropout": model.dropout,
        "stochastic_depth": model.stochastic_depth,
    }
