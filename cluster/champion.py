"""What the best model of an experiment says of the validation images, for the report."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

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
    from torch import Tensor

    from ..datasets import Manifest
    from ..orchestration.tracking.trained import TrainedModel

_BATCH = 16
# Mistakes that are shown, and seconds for which images are looked at.
_MOST, _SECONDS = 12, 60.0
# Up to this side, in pixels, JPEG would show its blocks.
_SMALL = 64


class _Wrong(NamedTuple):
    probability: float
    target: int
    predicted: int
    image: Tensor  # uint8 (3, H, W)


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
    import numpy as np
    import torch

    from ..datasets import EvalLoader
    from ..orchestration.training.classifier import NormalizedModel

    facts = trained.facts
    loader = EvalLoader(
        manifest,
        image_size=facts.image_size,
        resize=facts.eval_resize,
        interpolation=facts.interpolation,
        batch_size=_BATCH,
    )
    model = NormalizedModel(trained.network, facts.normalization).eval()
    targets, predicted, confidence = [], [], []
    wrong: list[_Wrong] = []
    began = time.monotonic()
    for batch in loader:
        mask = batch.mask
        with torch.inference_mode():
            probabilities = model(batch.images).softmax(1)
        sure, classes = probabilities.max(1)
        targets.append(batch.labels[mask].numpy())
        predicted.append(classes[mask].numpy())
        confidence.append(sure[mask].double().numpy())
        missed = (mask & (classes != batch.labels)).nonzero()[:, 0].tolist()
        wrong += [
            _Wrong(float(sure[n]), int(batch.labels[n]), int(classes[n]), batch.images[n].clone()) for n in missed
        ]
        wrong = sorted(wrong, key=lambda one: -one.probability)[:_MOST]
        if time.monotonic() - began > _SECONDS:
            break
    return Champion(
        trial=record.trial_id,
        source=trained.source,
        classes=facts.classes,
        targets=np.concatenate(targets),
        predicted=np.concatenate(predicted),
        confidence=np.concatenate(confidence),
        images=len(manifest.split("val")),
        logged_top1=record.best_top1,
        mistakes=list(_mistakes(trained, wrong)),
    )


def _mistakes(trained: TrainedModel, wrong: list[_Wrong]) -> Iterator[Mistake]:
    if not wrong:
        return
    import torch
    from PIL import Image

    from ..effnet.cam import deepest_layer, grad_cam
    from ..orchestration.report.overlay import overlay
    from ..orchestration.training.classifier import NormalizedModel

    facts = trained.facts
    inputs = NormalizedModel(torch.nn.Identity(), facts.normalization)(torch.stack([one.image for one in wrong]))
    layer = deepest_layer(trained.network, facts.image_size)
    maps = grad_cam(trained.network, inputs, [one.predicted for one in wrong], layer)
    for number, one in enumerate(wrong):
        picture = Image.fromarray(one.image.permute(1, 2, 0).contiguous().numpy())
        pointed = bool(maps.has_contrast[number])
        laid = _encoded(overlay(picture, maps.image_maps[number].numpy())) if pointed else None
        yield Mistake(_encoded(picture), laid, one.target, one.predicted, one.probability)


def _encoded(image: Image.Image) -> Picture:
    buffer, small = io.BytesIO(), max(image.size) <= _SMALL
    image.save(buffer, "PNG" if small else "JPEG", quality=88)
    return Picture(buffer.getvalue(), "image/png" if small else "image/jpeg", "")
