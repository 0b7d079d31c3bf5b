"""The report of a running sweep, kept with the sweep's MLflow run and written anew as trials end."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from ...datasets import one_line
from ..report.report import write_report
from ..request import ExperimentRequest, reported
from ..tracking.runs import Tracker

NAME = "report.html"
"""Of the artifact."""
# Seconds between two reports at least, and the share of the time that may go into them: the trials need the cores.
_LEAST_S, _SHARE = 60.0, 0.02
_log = logging.getLogger(__name__)


class ReportKeeper:
    """Writes the report from a thread, from its `with` block's beginning to its end, whenever trials have ended.

    It has no section on the best model, for which torch would have to be loaded. A report that cannot be written ends
    no sweep: it is warned of, and the next one is tried.

    Args:
        request: of the experiment.
        sweep_id: the sweep's run.
    """

    def __init__(self, request: ExperimentRequest, sweep_id: str) -> None:
        self._request, self._sweep_id = request, sweep_id
        # Without patience: a later report will do as well.
        self._tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, patience_s=0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="report", daemon=True)

    def __enter__(self) -> ReportKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if error is None:  # else the sweep's run is to be closed, and a job that is stopped has seconds left
            self._thread.join()

    def write(self) -> None:
        """Write the report as things stand."""
        try:
            content = write_report([reported(self._request, self._tracker)])
            self._tracker.log_text(self._sweep_id, content.decode(), NAME)
        except Exception as error:  # whatever it is: the trainings are what matters
            _log.warning("the report in MLflow is not up to date: %s", one_line(error))

    def _keep(self) -> None:
        looked, pause = time.time(), _LEAST_S
        while not self._over.wait(pause):
            before = time.monotonic()
            now = time.time()
            if self._has_ended_since(looked):
                looked = now
                self.write()
                pause = max(_LEAST_S, (time.monotonic() - before) / _SHARE)

    def _has_ended_since(self, looked: float) -> bool:
        try:
            return bool(self._tracker.ended_trials(looked))
        except Exception as error:
            _log.debug("not known whether trials have ended: %s", one_line(error))
            return False
