"""What a training finds out goes into its MLflow run: metrics, texts and the model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..training.metrics import LEARNING_RATE, STEP_LOSS, StepPoint
from .metric_log import MetricLog, MetricPoints
from .outbox import Entry, Outbox
from .runs import Tracker
from .server import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

# Seconds that a training which fails or is asked to leave still gives to the server.
_LAST_WORDS_S = 30.0


@dataclass
class MlflowSink:
    """The `Sink` of a trial, which connects when it is first used. Pickled, it is its addresses alone.

    Args:
        tracking_uri, experiment, uid: see `Tracker`.
        run_id: the trial's run.
        kept_in: a folder of this node for what the server does not have yet.

    Raises:
        EngineError: (any method) the server refuses, or is away for an hour when the model is logged.
    """

    tracking_uri: str
    experiment: str
    uid: str
    run_id: str
    kept_in: Path
    _earlier: Sequence[Entry] = field(default=(), repr=False, compare=False)

    def __reduce__(self) -> tuple[type[MlflowSink], tuple[str, str, str, str, Path]]:
        return MlflowSink, (self.tracking_uri, self.experiment, self.uid, self.run_id, self.kept_in)

    def log_steps(self, points: Sequence[StepPoint]) -> None:
        """See `Sink`."""
        self._put_metrics([[point.step, {STEP_LOSS: point.loss, LEARNING_RATE: point.lr}] for point in points])

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._put_metrics([[epoch, dict(metrics)]])

    def log_text(self, name: str, text: str) -> None:
        """See `Sink`."""
        self._outbox.put({"name": name, "text": text})

    def unsent(self) -> list[Entry]:
        """See `Sink`."""
        return self._outbox.unsent()

    def restore(self, unsent: Sequence[Entry]) -> None:
        """See `Sink`."""
        self._earlier = unsent

    def send_left(self, kept: Sequence[Entry]) -> None:
        """Send what a training that has ended could not: `kept`, and what its file on this node has."""
        self._earlier = kept
        self._outbox.drain(PATIENCE_S)
        self.close()

    def close(self) -> None:
        """See `Sink`."""
        if "_outbox" in vars(self):
            self._outbox.close(_LAST_WORDS_S)

    def _put_metrics(self, points: list[list[Any]]) -> None:
        self._outbox.put({"at": time.time_ns() // 10**6, "points": points})

    def _send(self, entries: Sequence[Entry]) -> None:
        self._metrics.log([MetricPoints(entry["at"], entry["points"]) for entry in entries if "points" in entry])
        for entry in entries:
            if "text" in entry:
                self._tracker.log_text(self.run_id, entry["text"], entry["name"])

    @cached_property
    def _outbox(self) -> Outbox:
        return Outbox(self._send, self.kept_in / f"{self.run_id}.jsonl", self._earlier)

    @cached_property
    def _tracker(self) -> Tracker:
        return Tracker(self.tracking_uri, self.experiment, self.uid, patience_s=0)  # the outbox is what waits

    @cached_property
    def _metrics(self) -> MetricLog:
        return MetricLog(self._tracker, self.run_id)
