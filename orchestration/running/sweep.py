"""A sweep: Ray Tune over the trials that a source hands out."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import Searcher

from ..errors import EngineError
from ..plan import Plan
from ..request import ExperimentRequest
from ..search.sources import TrialSource
from ..sizing.allocation import TRIAL_MEMORY
from ..sizing.line import Line
from ..tracking.records import Outcome
from ..tracking.runs import Tracker
from ..training.job import TrialPlan
from ..training.metrics import BEST_TOP1, TOP1, TRAIN_SECONDS
from .closing import close_run
from .nodes import alive_nodes
from .schedulers import PERCENT, Point, ReasonedScheduler, make_scheduler
from .trial import CANCELLED, SweepContext, Trial

# Seconds that a stopped trial's process gets to end its part of the run.
_LEAVES_S = 120.0
_log = logging.getLogger(__name__)


def run_sweep(
    context: SweepContext, tracker: Tracker, source: TrialSource, trainable: type[tune.Trainable] = Trial
) -> dict[str, Exception]:
    """Run trials, each when there is room for it. One that fails does not end the others; returns the errors by trial.

    Tune starts afresh in each job, over the trials that the tracking server does not know as finished: its own state
    is written piecemeal, and would bring the former job's concurrency back.

    Args:
        context: what the trials share.
        tracker: of their runs.
        source: of the trials that are to run.
        trainable: what Tune runs for each.
    """
    request = context.request
    scheduling = request.spec.scheduling
    stopped = StoppedRuns(request, tracker)
    next_trials = _NextTrials(source, Line(context.shares, alive_nodes), stopped)

    name = _Names(request.plan)
    scheduler = ReasonedScheduler(scheduling, make_scheduler(scheduling, request.spec.search.sweep), next_trials)
    if scheduling.name != "none":
        scheduler.replay(_curves(tracker, request.plan))
    tuner = Tuner(
        tune.with_resources(tune.with_parameters(trainable, context=context), {"memory": TRIAL_MEMORY}),
        tune_config=TuneConfig(
            search_alg=next_trials,
            scheduler=scheduler,
            num_samples=-1,  # as many as the source has
            trial_name_creator=name,
            trial_dirname_creator=name,
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


class _Names:
    """Names a trial of Tune as it is called in our plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes down with each trial what has named it, and no job of ours goes on from that."""
        return {}

    def __deepcopy__(self, memo: Any) -> _Names:
        return self

    def __call__(self, trial: Any) -> str:
        return self._plan.trial_of(trial.config).trial_id


class _NextTrials(Searcher):  # type: ignore[misc]
    """Hands Tune the next trial of a source when there is room for it, and the source the results.

    Args:
        source: of the trials.
        line: which of them starts now.
        stopped_runs: closes the runs of those that a scheduler stops.
    """

    def __init__(self, source: TrialSource, line: Line, stopped_runs: StoppedRuns) -> None:
        super().__init__()
        self._source, self._line, self._stopped_runs = source, line, stopped_runs
        self._started: dict[str, TrialPlan] = {}  # by Tune's id
        self._stopped: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its searcher down with all that it refers to, and no job of ours goes on from that."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Called by Tune again and again; returns a configuration, None for now, or that there will be no more."""
        if self._source.exhausted:
            return str(Searcher.FINISHED)
        trial = self._line.next(self._source.waiting())
        if trial is None:
            return None
        self._source.take(trial.trial_id)
        self._started[trial_id] = trial
        return dict(trial.configuration)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended, however it did."""
        trial = self._started.pop(trial_id, None)
        if trial is None:
            return
        name = trial.trial_id
        self._line.ended(name)
        outcome = Outcome.FAILED if error else Outcome.STOPPED if name in self._stopped else Outcome.COMPLETED
        if result and CANCELLED in result:
            outcome = Outcome.CANCELLED
        metrics = {"top1": BEST_TOP1, "seconds": TRAIN_SECONDS}
        values = {value: result[metric] for value, metric in metrics.items() if result and metric in result}
        share = (result or {}).get(PERCENT, 0.0) / 100
        self._source.ended(name, outcome, values | {"share": share})

    @property
    def wanted(self) -> bool:
        """See `Room`."""
        return bool(self._source.waiting())

    def stopped(self, name: str, reason: str) -> None:
        """See `Room`."""
        self._stopped.add(name)
        self._stopped_runs.put(name, reason)

    def gives_way(self, name: str) -> None:
        """See `Room`."""
        self._line.ended(name)

    def go_on(self, name: str) -> bool:
        """See `Room`."""
        return any(self._line.go_on(trial) for trial in self._started.values() if trial.trial_id == name)

    def save(self, checkpoint_path: str) -> None:
        """Called by Tune, whose state no job of ours goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class StoppedRuns:
    """Closes the runs of trials that a scheduler has stopped, when their processes have left them; from a thread."""

    def __init__(self, request: ExperimentRequest, tracker: Tracker) -> None:
        self._request, self._tracker = request, tracker
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
            close_run(self._request, self._tracker, trial_id, run_id, Outcome.STOPPED, reason)


def _curves(tracker: Tracker, plan: Plan) -> dict[str, list[Point]]:
    """What the trials of earlier jobs have reported, in shares of the steps that they have now."""
    curves = {}
    for record in tracker.trials():
        trial = plan.trials_by_id.get(record.trial_id)
        epochs = trial.recipe.epochs if trial else record.epochs
        points = tracker.history(record.run_id, TOP1)
        curves[record.trial_id] = [Point(100 * point.step / epochs, point.value) for point in points]
    return curves
