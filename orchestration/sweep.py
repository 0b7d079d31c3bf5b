"""A sweep: Ray Tune over the trials that a source hands out."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune import TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import Searcher

from .nodes import TRIAL_MEMORY
from .search.sources import TrialSource
from .training.metrics import BEST_TOP1, TOP1, TRAIN_SECONDS
from .trial import SweepContext, run_trial


def run_sweep(context: SweepContext, source: TrialSource, count: int, concurrent: int) -> dict[str, Exception]:
    """Run trials, at most `concurrent` at a time, and return the errors of those that failed, by their names.

    Tune starts afresh in each job, over the trials that the tracking server does not know as completed: its own state
    is written piecemeal, and would bring the former job's concurrency back.

    Args:
        context: what the trials share.
        source: of the trials.
        count: how many it will hand out at most.
        concurrent: how many run at a time.
    """
    request = context.request

    def name(trial: Any) -> str:
        return request.plan.trial_of(trial.config).trial_id

    trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), {"memory": TRIAL_MEMORY})
    searcher = _FromSource(source)
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            metric=TOP1,
            mode="max",
            num_samples=count,
            search_alg=searcher,
            max_concurrent_trials=concurrent,
            trial_name_creator=name,
            trial_dirname_creator=name,
        ),
        run_config=tune.RunConfig(
            name=request.job, storage_path=f"{request.storage}/tune", verbose=0, callbacks=[JsonLoggerCallback()]
        ),
    )
    results = tuner.fit()
    # Tune lists its results in the order in which it was given the configurations.
    return {trial_id: result.error for trial_id, result in zip(searcher.taken, results, strict=True) if result.error}


class _FromSource(Searcher):  # type: ignore[misc]
    """Gives Tune the flat configurations of a source's trials, and the source their results.

    Attributes:
        taken: the names of the trials that Tune has got, in that order.
    """

    def __init__(self, source: TrialSource) -> None:
        super().__init__(metric=TOP1, mode="max")
        self._source = source
        self._trial_of: dict[str, str] = {}
        self.taken: list[str] = []

    def suggest(self, trial_id: str) -> Any:
        """The next configuration; None while there is none."""
        waiting = self._source.waiting()
        if not waiting:
            return Searcher.FINISHED if self._source.exhausted else None
        trial = waiting[0]
        self._source.take(trial.trial_id)
        self._trial_of[trial_id] = trial.trial_id
        self.taken.append(trial.trial_id)
        return trial.configuration

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended."""
        names = {"top1": BEST_TOP1, "seconds": TRAIN_SECONDS}
        values = {name: result[metric] for name, metric in names.items() if result and metric in result}
        self._source.ended(self._trial_of.pop(trial_id), "failed" if error else "completed", values)

    def save(self, checkpoint_path: str) -> None:
        """Called by Tune, whose state nobody reads: each job starts it afresh."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: see `save`."""
