"""A trial: what Ray Tune schedules, steps from epoch to epoch, pauses and stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from .nodes import WorkerResources
from .request import ExperimentRequest
from .schedulers import PERCENT
from .training.metrics import EPOCH
from .trial_training import TrialTraining


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share; `sweep_id` is the sweep's MLflow run."""

    request: ExperimentRequest
    sweep_id: str
    resources: WorkerResources


class Trial(tune.Trainable):  # type: ignore[misc]
    """One trial in the process that Tune gives it. A step is an epoch; the trial's own storage has its checkpoints.

    A Tune function would be simpler, but Tune ends its process without waiting for the workers to save and leave.
    """

    def setup(self, config: dict[str, Any], context: SweepContext) -> None:
        """Called by Tune first.

        Args:
            config: the trial's, flat.
            context: what the sweep's trials share.
        """
        self._plan = context.request.plan.trial_of(config)
        self._training = TrialTraining(context.request, context.sweep_id, self._plan, context.resources)

    def step(self) -> dict[str, Any]:
        """Train up to the end of an epoch.

        Raises:
            TrialFailedError: the workers failed more often than allowed, or in a way that would come again.
        """
        metrics = self._training.next_report()
        if metrics is None:
            return {RESULT_DUPLICATE: True}  # done, and the last report stays
        percent = 100 * metrics[EPOCH] / self._plan.recipe.epochs
        return metrics | {PERCENT: percent}

    def cleanup(self) -> None:
        """Called by Tune at the end, also where the trial is stopped or paused; Tune waits for it."""
        self._training.leave()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """What Tune keeps of a trial: its name, for the checkpoints are in its storage."""
        return {"trial": self._plan.trial_id}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Called by Tune where a paused trial goes on; the latest checkpoint is in its storage."""
        self._training.wait_for_earlier()
