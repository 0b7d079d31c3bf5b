"""What a training finds out goes into its MLflow run: metrics, texts and the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..training.metrics import LEARNING_RATE, STEP_LOSS, StepPoint
from .metric_log import MetricLog
from .models import log_model
from .runs import Tracker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True)
class MlflowSink:
    """The `Sink` of a trial, which connects when it is first used. Pickled, it is its three addresses alone.

    Raises:
        EngineError: (any method) the server cannot be reached or refuses.
    """

    tracking_uri: str
    experiment: str
    run_id: str

    def __reduce__(self) -> tuple[type[MlflowSink], tuple[str, str, str]]:
        return MlflowSink, (self.tracking_uri, self.experiment, self.run_id)

    def log_steps(self, points: Sequence[StepPoint]) -> None:
        """See `Sink`."""
        self._metrics.log_steps([(point.step, {STEP_LOSS: point.loss, LEARNING_RATE: point.lr}) for point in points])

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._metrics.log(epoch, metrics)

    def log_text(self, name: str, text: str) -> None:
        """See `Sink`."""
        self._tracker.log_text(self.run_id, text, name)

    def log_model(self, model: nn.Module, example: NDArray[np.uint8], top1: float, facts: Mapping[str, Any]) -> None:
        """See `Sink`."""
        log_model(self._tracker, self.run_id, model, example, top1, facts)

    @cached_property
    def _tracker(self) -> Tracker:
        return Tracker(self.tracking_uri, self.experiment)

    @cached_property
    def _metrics(self) -> MetricLog:
        return MetricLog(self._tracker, self.run_id)
