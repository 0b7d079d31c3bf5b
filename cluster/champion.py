"""What the best models of an experiment say of the validation images, for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..datasets import DataError
from ..orchestration.errors import EngineError, UserError
from ..orchestration.report.champion import Champion, Mistake
from ..orchestration.report.contents import Reported
from ..orchestration.report.parts import Picture
from ..orchestration.report.studies.sights import Sight, View
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
# Of each model that is compared: seconds for the images and for the maps, images at most, and classes that are shown.
_LOOK_SECONDS, _IMAGES, _CLASSES = 10.0, 500, 8
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
    try:
        return _examined(_model(experiment, best), _data(home, experiment), best)
    except (DataError, UserError, EngineError, OSError) as error:
        return f"the best model, of {best.trial_id}, could not be shown the validation images: {error}"


def look(home: Home, experiment: Experiment, reported: Reported) -> Sequence[Sight] | str:
    """Show the first image of some classes to the best model of each variant.

    Args:
        home: that opens the data.
        experiment: whose.
        reported: its trials and its study.

    Returns:
        What the models see, in the order of the study, or in one line why they could not be asked.
    """
    study = reported.study
    assert study is not None
    best: dict[str, TrialRecord] = {}
    for record in reported.records:
        if record.outcome is Outcome.COMPLETED and record.model_uri:
            best[record.variant] = max(record, best.get(record.variant, record), key=lambda one: one.best_top1 or 0.0)
    chosen = [(role.label or name, best[name]) for name, role in study.variants.items() if name in best]
    try:
        manifest = _data(home, experiment)
        seen = [_first_of_classes(_model(experiment, record), manifest) for _, record in chosen]
    except (DataError, UserError, EngineError, OSError) as error:
        return f"the models could not be shown the validation images: {error}"
    # A model without time for all of them has seen fewer.
    shown = [name for name in (seen[0] if seen else ()) if all(name in views for views in seen)]
    return [
        Sight(label, record.trial_id, [views[name] for name in shown])
        for (label, record), views in zip(chosen, seen, strict=True)
    ]


def _data(home: Home, experiment: Experiment) -> Manifest:
    spec = experiment.request.spec
    manifest = home.open_dataset(spec.data, spec.execution.cache_limit, typed=False)
    experiment.request.plan.require_data(manifest)
    return manifest


def _model(experiment: Experiment, record: TrialRecord) -> TrainedModel:
    from ..orchestration.tracking.trained import from_mlflow

    return from_mlflow(experiment.request.tracking_uri, str(record.model_uri))


def _first_of_classes(trained: TrainedModel, manifest: Manifest) -> dict[str, View]:
    from ..orchestration.tracking.examination import examine

    said = examine(trained, manifest, _LOOK_SECONDS, 0, examples=_CLASSES, most=_IMAGES)
    views = {}
    for one in said.examples:
        target, predicted = said.classes[one.target], said.classes[one.predicted]
        views[target] = View(_picture(one), target, predicted, one.probability)
    return views


def _picture(one: Seen) -> Picture:
    """The image with its map over it, or bare where there is none."""
    from PIL import Image

    from ..orchestration.report.overlay import overlay

    picture = Image.fromarray(one.image)
    return _encoded(picture if one.map is None else overlay(picture, one.map))


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
