"""Asking one trial to end, from any process: a tag of the experiment in MLflow, for which the trial's process looks.

The tracking server is what the command line and every node reach. A trial that has not started yet has no run of its
own there, but the experiment is there from the moment at which it is submitted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...datasets import EffnetClusterError
from . import tags
from .runs import Tracker

# Seconds between two looks of a trial's process: one small request each.
_EVERY_S = 3.0
CANCELLED, CANCELLED_WHILE_WAITING = "stopped by the user", "stopped by the user while it waited for its turn"
"""Why a trial has ended that was asked to."""
_log = logging.getLogger(__name__)


class StopRequests:
    """The trials of one experiment that the user wants to end.

    Args:
        tracker: of the experiment.

    Raises:
        EngineError, UserError: (any method) see `Tracker`.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def request(self, trial_id: str) -> None:
        """Ask a trial to end, or never to start."""
        tracker = self._tracker
        tracker.client.set_experiment_tag(tracker.experiment_id, tags.STOP + trial_id, f"{time.time():.3f}")

    def requested(self, trial_id: str) -> bool:
        """Whether a trial was asked to end."""
        return trial_id in self.all()

    def all(self) -> frozenset[str]:
        """The trials that were asked to end; none where there is no experiment."""
        found = self._tracker.experiment_tags()
        return frozenset(name.removeprefix(tags.STOP) for name in found if name.startswith(tags.STOP))

    def clear(self) -> None:
        """Forget all requests: the trials may run again."""
        for trial_id in self.all():
            self._tracker.client.delete_experiment_tag(self._tracker.experiment_id, tags.STOP + trial_id)


@contextmanager
def when_requested(
    requests: StopRequests, trial_id: str, then: Callable[[], None], every_s: float = _EVERY_S
) -> Iterator[threading.Event]:
    """Within the block, a thread looks for a request to end the trial, and calls `then` once when there is one.

    A tracking server that is away is asked again later.

    Yields:
        An event that is set before `then` is called.
    """
    asked, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.wait(every_s):
            try:
                if not requests.requested(trial_id):
                    continue
            except EffnetClusterError:
                continue
            if ended.is_set():
                return
            asked.set()
            _log.info("asked to end by `stop`")
            then()
            return

    threading.Thread(target=look, name="stop-requests", daemon=True).start()
    try:
        yield asked
    finally:
        ended.set()
