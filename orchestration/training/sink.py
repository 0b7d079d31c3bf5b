"""Where a training sends what it finds out; MLflow in a sweep, files under torchrun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .metrics import StepPoint


class Sink(Protocol):
    """Takes the metrics and texts of one training. Only rank 0 calls it.

    Every call may come again after a restart, with the same content: a sink keeps each step and each epoch once. None
    but `close` waits for what is behind the sink.
    """

    def restore(self, unsent: Sequence[dict[str, Any]]) -> None:
        """Go on from a checkpoint, which kept what `unsent` returned. Called before all others, if at all."""

    def unsent(self) -> list[dict[str, Any]]:
        """What could not be passed on yet, as JSON-safe values."""

    def close(self) -> None:
        """The training ends, well or not. Raises nothing."""

    def log_steps(self, points: Sequence[StepPoint]) -> None:
        """Add points to the step curves."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an epoch, counted from 1, by the names in `metrics`."""

    def log_text(self, name: str, text: str) -> None:
        """Keep a text under a relative path, in place of an earlier one."""
