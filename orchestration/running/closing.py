"""The end of a trial's MLflow run: what its workers could not send comes first."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import EngineError
from ..request import ExperimentRequest
from ..tracking.records import Outcome
from ..tracking.runs import Tracker
from ..tracking.sink import MlflowSink
from ..training.checkpoint_store import CheckpointStore

_log = logging.getLogger(__name__)


def sink_of(request: ExperimentRequest, run_id: str) -> MlflowSink:
    """What takes the metrics of a trial's run, on any node."""
    unsent = Path(request.cache_root, "unsent")
    return MlflowSink(request.tracking_uri, request.spec.name, request.uid, run_id, unsent)


def close_run(
    request: ExperimentRequest, tracker: Tracker, trial_id: str, run_id: str, outcome: Outcome, reason: str = ""
) -> None:
    """Close the run of a trial whose workers have ended before it was completed.

    Args:
        request: of the experiment.
        tracker: of its runs.
        trial_id, run_id: whose run, and which one.
        outcome, reason: see `Tracker.finish`.

    Raises:
        EngineError: the server refuses, or is away for too long.
    """
    store = CheckpointStore(request.storage_of(trial_id))
    try:
        sink_of(request, run_id).send_left(store.unsent())
        store.write_unsent([])
    except (EngineError, OSError) as error:
        _log.error("not all that the training found out is in MLflow: %s", error, extra={"trial": trial_id})
    tracker.finish(run_id, outcome, reason)
