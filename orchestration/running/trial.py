"""A trial: what Ray Tune schedules, steps from epoch to epoch, pauses and stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.result import DONE, RESULT_DUPLICATE

from ..request import ExperimentRequest
from ..sizing.allocation import Shares
from ..tracking.exchanges import note_exchange
from ..tracking.runs import Tracker
from ..tracking.server import PATIENCE_S
from ..training.job import TrialPlan
from ..training.metrics import EPOCH
from ..training.storage import Storage
from .exchange import Exchange, Exchanges
from .schedulers import PERCENT
from .trial_training import LEAVE_S, TrialTraining


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share; `sweep_id` is the sweep's MLflow run, `shares` says what each of them gets."""

    request: ExperimentRequest
    sweep_id: str
    shares: Shares


CANCELLED = "cancelled"
"""In the last report of a trial that the user has ended."""


class Trial(tune.Trainable):  # type: ignore[misc]
    """One trial in the process that Tune gives it. A step is an epoch; the trial's own storage has its checkpoints.

    A Tune function would be simpler, but Tune ends its process without waiting for the workers to save and leave.
    """

    def setup(self, config: dict[str, Any], context: SweepContext) -> None:
        """Called by Tune first.

        Args:
            config: the trial's, flat. Population based training changes swept fields in it, and not the trial's name.
            context: what the sweep's trials share.
        """
        self._context, self._config = context, config
        self._training: TrialTraining | None = None
        self._last: dict[str, Any] = {}
        # Of the latest report of this process: what the trial had before it is in its storage.
        self._epoch = 0
        self._follows = False
        self._exchanges: Exchanges | None = None
        if context.request.spec.scheduling.name != "pbt":
            self._plan = context.request.plan.trial_of(config)
            return
        self._plan = context.request.plan.trial(self.trial_name)
        self._exchanges = Exchanges(self._storage_of(self.trial_name))
        for exchange in self._exchanges.all()[-1:]:
            self._plan = self._with(exchange.swept)

    def step(self) -> dict[str, Any]:
        """Train up to the end of an epoch.

        Raises:
            TrialFailedError: the workers failed more often than allowed, or in a way that would come again.
        """
        if self._training is None:
            self._training = self._make_training()
        metrics = self._training.next_report()
        if metrics is None:  # done, and the last report stays unless the user ended the trial
            return self._last | {DONE: True, CANCELLED: True} if self._training.cancelled else {RESULT_DUPLICATE: True}
        self._epoch = int(metrics[EPOCH])
        self._last = metrics | {PERCENT: 100 * metrics[EPOCH] / self._plan.recipe.epochs}
        return self._last

    def cleanup(self) -> None:
        """Called by Tune at the end, also where the trial is stopped or paused; Tune waits for it."""
        if self._training is not None:
            self._training.leave()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """What Tune keeps of a trial: whose it is, for the checkpoints are in the trial's storage."""
        if self._exchanges is not None:
            self._exchanges.offer(self._epoch)
        digest = self._plan.digest(self._context.request.plan.data_digest)
        return {"trial": self._plan.trial_id, "digest": digest}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Called by Tune where a paused trial goes on, from its own latest checkpoint or from another trial's."""
        self._follows = True
        if self._exchanges is None or checkpoint is None or checkpoint["trial"] == self._plan.trial_id:
            return
        request, before = self._context.request, self._plan.swept
        tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
        run_id = tracker.wait_until_left(self._plan.trial_id, LEAVE_S)
        exchange = self._take_over(self._exchanges, checkpoint)
        if run_id is not None:
            number = len(self._exchanges.all())
            note_exchange(tracker, run_id, number, exchange.epoch, exchange.donor, before, self._plan.swept)

    def _take_over(self, exchanges: Exchanges, checkpoint: Mapping[str, Any]) -> Exchange:
        """Go on from another trial's checkpoints, with what Tune has made of the swept fields."""
        swept = {name: self._config[name] for name in self._plan.swept}
        exchange = Exchange(0, checkpoint["trial"], checkpoint["digest"], swept)
        exchange = exchanges.take_over(self._storage_of(exchange.donor), exchange)
        self._plan = self._with(swept)
        return exchange

    def _make_training(self) -> TrialTraining:
        shares, request = self._context.shares, self._context.request
        training = TrialTraining(
            request,
            self._context.sweep_id,
            self._plan,
            shares.resources_of(self._plan),
            predicted_s=shares.cost_of(self._plan).seconds,
            goes_on_from=[exchange.digest for exchange in self._exchanges.all()] if self._exchanges else (),
        )
        if self._follows:
            training.wait_for_earlier()
        return training

    def _with(self, swept: Mapping[str, Any]) -> TrialPlan:
        """The trial's plan with other values of the swept fields, under its own name."""
        plan = self._context.request.plan.trial_of(self._plan.configuration | dict(swept))
        return plan.model_copy(update={"trial_id": self.trial_name})

    def _storage_of(self, trial_id: str) -> Storage:
        return Storage(self._context.request.storage_of(trial_id))
