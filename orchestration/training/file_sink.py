"""A training's results in a folder: `metrics.jsonl`, and texts. For torchrun, where no tracking server is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .metrics import LEARNING_RATE, STEP_LOSS, StepPoint

FILE = "metrics.jsonl"


class FileSink:
    """The `Sink` that writes into a folder: a line of JSON per step or epoch, each of which is written once.

    Args:
        folder: where to; it may hold what an interrupted run has written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / FILE
        lines = self._file.read_bytes().splitlines() if self._file.exists() else []
        # An epoch has several lines, of different metrics.
        self._known = {(row.pop("kind"), row.pop("number"), frozenset(row)) for row in map(json.loads, lines)}

    def restore(self, unsent: Sequence[dict[str, Any]]) -> None:
        """See `Sink`."""

    def unsent(self) -> list[dict[str, Any]]:
        """See `Sink`; a file takes everything at once."""
        return []

    def close(self) -> None:
        """See `Sink`."""

    def log_steps(self, points: Sequence[StepPoint]) -> None:
        """See `Sink`."""
        for point in points:
            self._write("step", point.step, {STEP_LOSS: point.loss, LEARNING_RATE: point.lr})

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._write("epoch", epoch, metrics)

    def log_text(self, name: str, text: str) -> None:
        """See `Sink`."""
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")

    def _write(self, kind: str, number: int, metrics: Mapping[str, float]) -> None:
        """Write a line, unless there is one of this kind, number and metrics."""
        line = (kind, number, frozenset(metrics))
        if line not in self._known:
            self._known.add(line)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "number": number, **metrics}) + "\n")
