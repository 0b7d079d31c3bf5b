"""What the best model of an experiment says of the validation images, for the report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..datasets import DataError
from ..orchestration.errors import EngineError, UserError
from ..orchestration.report.champion import Champion, Mistake
from ..orchestration.report.contents import Reported
from ..orchestration.report.parts import Picture
from ..orchestration.tracking.records import Outcome, TrialRecord
from .experiments import Experiment
from .home import Home

if TYPE_CHECKING:
    from PIL import Image

    from ..datasets import Manifest
    from ..orchestration.tracking.examination import Seen
    from ..orchestration.tracking.trained import TrainedModel

# Mistakes that are shown, and seconds for which images are looked at.
_MOST, _SECONDS = 12, 60.0
# Up to this side, in pixels, JPEG would show its blocks.
_SMALL = 64


def examine(home: Home, experiment: Experiment, reported: Reported) -> Champion | str:
    """Show the validation images to the best model of an experiment, for a minute at most.

    Args:
        home: that opens the data.
        experiment: whose.
        reported: its trials.

    Returns:
        What the model says, or in one line why it could not be asked.
    """
    done = [one for one in reported.records if one.outcome is Outcome.COMPLETED and one.model_uri]
    best = max(done, key=lambda record: record.best_top1 or 0.0, default=None)
    if best is None:
        return "no trial has logged a model yet"
    from ..orchestration.tracking.trained import from_mlflow

    spec = experiment.request.spec
    try:
        manifest = home.open_dataset(spec.data, spec.execution.cache_limit, typed=False)
        experiment.request.plan.require_data(manifest)
        trained = from_mlflow(experiment.request.tracking_uri, str(best.model_uri))
        return _examined(trained, manifest, best)
    except (DataError, UserError, EngineError, OSError) as error:
        return f"the best model, of {best.trial_id}, could not be shown the validation images: {error}"


def _examined(trained: TrainedModel, manifest: Manifest, record: TrialRecord) -> Champion:
    from ..orchestration.tracking.examination import examine

    said = examine(trained, manifest, _SECONDS, _MOST)
    return Champion(
        trial=record.trial_id,
        source=trained.source,
        classes=said.classes,
        targets=said.targets,
        predicted=said.predicted,
        confidence=said.confidence,
        images=said.images,
        logged_top1=record.best_top1,
        mistakes=[_mistake(one) for one in said.mistakes],
    )


def _mistake(one: Seen) -> Mistake:
    from PIL import Image

    from ..orchestration.report.overlay import overlay

    picture = Image.fromarray(one.image)
    laid = None if one.map is None else _encoded(overlay(picture, one.map))
    return Mistake(_encoded(picture), laid, one.target, one.predicted, one.probability)


def _encoded(image: Image.Image) -> Picture:
    buffer, small = io.BytesIO(), max(image.size) <= _SMALL
    image.save(buffer, "PNG" if small else "JPEG", quality=88)
    return Picture(buffer.getvalue(), "image/png" if small else "image/jpeg", "")
