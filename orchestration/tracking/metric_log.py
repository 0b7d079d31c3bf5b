"""Metrics into one MLflow run, each step once, also when a restarted training computes steps again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .runs import Tracker

# The server's limit per request.
_MOST_METRICS = 1000


class MetricPoints(NamedTuple):
    """Metrics at several steps, ascending; `at` is the time at which they were measured, in milliseconds since 1970."""

    at: int
    points: Sequence[tuple[int, Mapping[str, float]]]


class MetricLog:
    """Appends metrics to one run and never logs a step twice, also not after a restart from a checkpoint.

    Training is deterministic up to the step: what a restarted worker computes again is what the server has already.
    What is sent again, because the server did not confirm it, has the same time; by that the server knows it again.

    Args:
        tracker: of the run's experiment.
        run_id: the run's.

    Raises:
        EngineError: (any method) the server cannot be reached or refuses.
    """

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._last: dict[str, int] = {}
        # The metrics that the run had at first: a new run is asked once, and not for the history of each metric.
        self._named: frozenset[str] | None = None

    def log(self, several: Sequence[MetricPoints]) -> None:
        """Log metrics, in the order of their steps, in as few requests as MLflow allows.

        Those that a run already has at their step or a later one are left out.
        """
        from mlflow.entities import Metric

        fresh, reached = [], dict[str, int]()
        for at, points in several:
            for step, metrics in points:
                for name, value in metrics.items():
                    if step > reached.get(name, self._last_step(name)):
                        reached[name] = step
                        fresh.append(Metric(name, float(value), at, step))
        for start in range(0, len(fresh), _MOST_METRICS):
            part = fresh[start : start + _MOST_METRICS]
            self._tracker.client.log_batch(self._run_id, metrics=part)
            self._last |= {metric.key: metric.step for metric in part}

    def _last_step(self, name: str) -> int:
        if self._named is None:
            self._named = frozenset(self._tracker.client.get_run(self._run_id).data.metrics)
        if name not in self._last:
            history = self._tracker.history(self._run_id, name) if name in self._named else []
            self._last[name] = history[-1].step if history else -1
        return self._last[name]
