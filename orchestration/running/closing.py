"""What is left to do when a trial's workers have ended: what they could not send, the model, and the run's end."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import EngineError
from ..request import ExperimentRequest
from ..tracking.models import log_model
from ..tracking.records import Outcome
from ..tracking.runs import Tracker
from ..tracking.sink import MlflowSink
from ..tracking.trained import best_of
from ..training.checkpoint_store import CheckpointStore

_log = logging.getLogger(__name__)


def sink_of(request: ExperimentRequest, run_id: str) -> MlflowSink:
    """What takes the metrics of a trial's run, on any node."""
    unsent = Path(request.cache_root, "unsent")
    return MlflowSink(request.tracking_uri, request.spec.name, request.uid, run_id, unsent)


def complete_run(request: ExperimentRequest, tracker: Tracker, trial_id: str, run_id: str) -> None:
    """Log the best model of a trial that is trained to its end, and close its run.

    The workers do not do this: they, and a GPU each, would wait for it. It takes 10 to 60 s of a core.

    Raises:
        UserError, OSError: the checkpoints cannot be read.
        EngineError: the server refuses, or is away for too long.
    """
    import torch

    torch.set_num_threads(1)  # a trial has no core of its own
    store = CheckpointStore(request.storage_of(trial_id))
    _send_left(request, store, run_id)
    trained, top1 = best_of(store)
    log_model(tracker, run_id, trained.served(), store.example(), top1, trained.facts.to_dict())
    tracker.finish(run_id, Outcome.COMPLETED)


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
    try:
        _send_left(request, CheckpointStore(request.storage_of(trial_id)), run_id)
    except (EngineError, OSError) as error:
        _log.error("not all that the training found out is in MLflow: %s", error, extra={"trial": trial_id})
    tracker.finish(run_id, outcome, reason)


def _send_left(request: ExperimentRequest, store: CheckpointStore, run_id: str) -> None:
    """Send what the workers could not."""
    sink_of(request, run_id).send_left(store.unsent())
    store.write_unsent([])
