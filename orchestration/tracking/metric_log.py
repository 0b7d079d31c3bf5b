"""Metrics into one MLflow run, each step once, also when a restarted training computes steps again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .runs import Tracker
from .server import server_errors

# The server's limit per request.
_MOST_METRICS = 1000


class MetricLog:
    """Appends metrics to one run and never logs a step twice, also not after a restart from a checkpoint.

    Training is deterministic up to the step: what a restarted worker computes again is what the server has already.

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

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics at `step`; those that already reach this step are left out."""
        self.log_steps([(step, metrics)])

    def log_steps(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log several steps, in ascending order, in as few requests as MLflow allows."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        fresh = [
            Metric(name, float(value), now, step)
            for step, metrics in points
            for name, value in metrics.items()
            if step > self._last_step(name)
        ]
        for start in range(0, len(fresh), _MOST_METRICS):
            part = fresh[start : start + _MOST_METRICS]
            with server_errors(self._tracker.uri):
                self._tracker.client.log_batch(self._run_id, metrics=part)
            self._last |= {metric.key: metric.step for metric in part}

    def _last_step(self, name: str) -> int:
        if name not in self._last:
            history = self._tracker.history(self._run_id, name)
            self._last[name] = history[-1].step if history else -1
        return self._last[name]
