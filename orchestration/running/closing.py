"""What is left to do when a trial's workers have ended: what they could not send, the model, the run's end, figures."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...datasets import one_line, open_dataset
from ..errors import EngineError
from ..request import ExperimentRequest
from ..tracking import tags
from ..tracking.models import log_model
from ..tracking.records import Outcome
from ..tracking.runs import Tracker
from ..tracking.sink import MlflowSink
from ..tracking.trained import best_of
from ..training.checkpoint_store import CheckpointStore

if TYPE_CHECKING:
    from ..tracking.trained import TrainedModel

FIGURES = "figures"
"""The folder of a run's artifacts with what its model confuses and where it looks."""
# Images that a model is shown for its figures, about, and seconds for that and for the maps, each. Pictures of errors,
# and of classes.
_MOST, _SECONDS, _MISTAKES, _EXAMPLES = 2000, 20.0, 12, 12
_log = logging.getLogger(__name__)


def sink_of(request: ExperimentRequest, run_id: str) -> MlflowSink:
    """What takes the metrics of a trial's run, on any node."""
    unsent = Path(request.cache_root, "unsent")
    return MlflowSink(request.tracking_uri, request.spec.name, request.uid, run_id, unsent)


def complete_run(request: ExperimentRequest, tracker: Tracker, trial_id: str, run_id: str) -> None:
    """Log the best model of a trial that is trained to its end, close its run, and keep figures with it.

    The workers do not do this: they, and a GPU each, would wait for it. It takes 10 to 60 s of a core, and the figures
    up to 40 s more.

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
    # Only now, so that nothing that happens to them is the trial's.
    _keep_figures(request, run_id, trained)


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


def _keep_figures(request: ExperimentRequest, run_id: str, trained: TrainedModel) -> None:
    """Keep figures of a trial's model with its run, or say why there are none: the trial is completed anyway."""
    # Without patience: the model, from which they can be drawn again, is what matters.
    tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, patience_s=0)
    try:
        told = _drawn(request, tracker, run_id, trained)
    except Exception as error:
        told = f"none: {one_line(error, 200)}"
        _log.warning("no figures of the model in MLflow: %s", one_line(error))
    with contextlib.suppress(EngineError):
        tracker.client.set_tag(run_id, tags.FIGURES, told)


def _drawn(request: ExperimentRequest, tracker: Tracker, run_id: str, trained: TrainedModel) -> str:
    """Draw the figures and send them; returns what they are made of."""
    from ..report.trial_figures import trial_figures
    from ..tracking.examination import examine

    execution = request.spec.execution
    manifest = open_dataset(request.spec.data, Path(request.cache_root), execution.cache_limit, typed=False)
    request.plan.require_data(manifest)
    said = examine(trained, manifest, _SECONDS, _MISTAKES, _EXAMPLES, _MOST, execution.on_corrupt)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in trial_figures(said).items():
            Path(folder, name).write_bytes(content)
        tracker.client.log_artifacts(run_id, folder, FIGURES)
    return f"of {len(said.targets):,} of {said.images:,} validation images"


def _send_left(request: ExperimentRequest, store: CheckpointStore, run_id: str) -> None:
    """Send what the workers could not."""
    sink_of(request, run_id).send_left(store.unsent())
    store.write_unsent([])
