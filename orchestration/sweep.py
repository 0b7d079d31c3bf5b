"""A sweep: Ray Tune over the trials of a plan."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import Searcher

from .errors import EngineError
from .nodes import TRIAL_MEMORY
from .schedulers import Point, ReasonedScheduler, make_scheduler
from .tracking.records import Outcome
from .tracking.runs import Tracker
from .training.metrics import TOP1
from .trial import SweepContext, Trial

# Seconds that a stopped trial's process gets to end its part of the run.
_LEAVES_S = 120.0
_log = logging.getLogger(__name__)


def run_sweep(
    context: SweepContext, tracker: Tracker, trial_ids: Sequence[str], concurrent: int
) -> dict[str, Exception]:
    """Run trials, at most `concurrent` at a time. One that fails does not end the others; returns the errors by trial.

    Tune starts afresh in each job, over the trials that the tracking server does not know as finished: its own state
    is written piecemeal, and would bring the former job's concurrency back.
    """
    request = context.request
    scheduling = request.spec.scheduling
    next_trials = _NextTrials(trial_ids, concurrent)
    stopped = _StoppedRuns(tracker)
    scheduler = ReasonedScheduler(scheduling, make_scheduler(scheduling, {}), stopped.put, next_trials.has_room)
    if scheduling.name != "none":
        scheduler.replay(_curves(tracker))
    trainable = tune.with_resources(tune.with_parameters(Trial, context=context), {"memory": TRIAL_MEMORY})
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=next_trials,
            scheduler=scheduler,
            num_samples=len(trial_ids),
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=request.job, storage_path=f"{request.storage}/tune", verbose=0, callbacks=[JsonLoggerCallback()]
        ),
    )
    try:
        results = tuner.fit()
    finally:
        stopped.close()
    return {Path(result.path).name: result.error for result in results if result.error}


class _NextTrials(Searcher):  # type: ignore[misc]
    """Hands Tune the next trial when there is room for it.

    Args:
        trial_ids: what is to run, in this order.
        concurrent: how many trials run at a time.
    """

    def __init__(self, trial_ids: Sequence[str], concurrent: int) -> None:
        super().__init__()
        self._waiting = list(reversed(trial_ids))
        self._concurrent = concurrent
        self._running: dict[str, str] = {}  # Tune's id → the trial's

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Called by Tune again and again; returns a configuration, None for now, or that there will be no more."""
        if not self._waiting:
            return str(Searcher.FINISHED)
        if len(self._running) >= self._concurrent:
            return None
        self._running[trial_id] = self._waiting.pop()
        return {"trial": self._running[trial_id]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended, however it did."""
        self._running.pop(trial_id, None)

    def has_room(self, name: str) -> bool:
        """Whether a paused trial can go on."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Called by Tune, whose state no job of ours goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class _StoppedRuns:
    """Closes the runs of trials that a scheduler has stopped, when their processes have left them; from a thread."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._queue: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()  # trial and reason
        self._thread = threading.Thread(target=self._close_runs, name="stopped runs", daemon=True)
        self._thread.start()

    def put(self, trial_id: str, reason: str) -> None:
        """Close the run of a trial, some time later; `reason` says in one line why it was stopped."""
        self._queue.put((trial_id, reason))

    def close(self) -> None:
        """Wait until all that were put are closed."""
        self._queue.put(None)
        self._thread.join()

    def _close_runs(self) -> None:
        while (found := self._queue.get()) is not None:
            try:
                self._close_run(*found)
            except EngineError as error:
                _log.error("a run was stopped, but MLflow could not be told: %s", error)

    def _close_run(self, trial_id: str, reason: str) -> None:
        run_id = self._tracker.wait_until_left(trial_id, _LEAVES_S)
        if run_id is not None:
            self._tracker.finish(run_id, Outcome.STOPPED, reason)


def _curves(tracker: Tracker) -> dict[str, list[Point]]:
    """What the trials of earlier jobs have reported."""
    records = tracker.trials()
    return {
        record.trial_id: [
            Point(100 * point.step / record.epochs, point.value) for point in tracker.history(record.run_id, TOP1)
        ]
        for record in records
    }


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
