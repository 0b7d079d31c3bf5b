"""`Plan`: what will run, derived from a specification and a data set before anything is started."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..datasets import BatchLayout, Manifest
from ..effnet import VARIANTS, complexity, variant
from ..effnet.complexity import Complexity
from ..effnet.pretrained import PRETRAINED
from .errors import UserError
from .spec import ExperimentSpec, slug
from .training.execution import Execution
from .training.job import TrialPlan

BASE_RESOLUTION = VARIANTS["b0"].resolution
# Training crops: photos bear losing most of their area (8 % in the paper's ImageNet input); of an image of a few dozen
# pixels, half is often another class.
_MIN_CROP = 0.25
_MIN_CROP_SMALL = 0.7


class Plan(BaseModel):
    """Every trial of an experiment and the data that they share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: ExperimentSpec
    trials: tuple[TrialPlan, ...]
    classes: tuple[str, ...]
    train_samples: int
    val_samples: int
    data_digest: str

    @cached_property
    def spec_digest(self) -> str:
        """Names the training that this plan describes; a checkpoint of another one is refused."""
        content = json.dumps([trial.model_dump(mode="json") for trial in self.trials], sort_keys=True)
        return hashlib.sha256((content + self.data_digest).encode()).hexdigest()[:16]

    def trial(self, trial_id: str) -> TrialPlan:
        """The trial of that id. Raises `StopIteration` if there is none."""
        return next(trial for trial in self.trials if trial.trial_id == trial_id)

    def run_by(self, execution: Execution) -> Plan:
        """The same trials, run in another way.

        Raises:
            UserError, DataError: the global batch does not divide over the workers.
        """
        spec = ExperimentSpec.parse(dict(self.spec) | {"execution": execution})
        _batches_per_epoch(spec, self.train_samples)
        return self.model_copy(update={"spec": spec})


def make_plan(spec: ExperimentSpec, manifest: Manifest) -> Plan:
    """Resolve every trial's model, resolution and cost, and refuse what cannot run.

    Raises:
        UserError: a recipe starts from published weights and a variant has none.
        DataError: a split is missing, or the global batch does not divide over the workers or exceeds the data.
    """
    train, val = manifest.split("train"), manifest.split("val")
    batches = _batches_per_epoch(spec, len(train))
    trials = tuple(_plan_trial(spec, manifest, batches, *combination) for combination in spec.combinations())
    return Plan(
        spec=spec,
        trials=trials,
        classes=tuple(manifest.classes),
        train_samples=len(train),
        val_samples=len(val),
        data_digest=manifest.digest,
    )


def _batches_per_epoch(spec: ExperimentSpec, samples: int) -> int:
    return BatchLayout(samples, spec.recipe.global_batch, world_size=spec.worker_counts[-1]).batches


def _plan_trial(
    spec: ExperimentSpec, manifest: Manifest, batches: int, name: str, activation: str, shortcut: str, seed: int
) -> TrialPlan:
    recipe = spec.recipe
    if recipe.pretrained and name not in PRETRAINED:
        raise UserError(f"there are no published weights of {name} to start from; choose from {', '.join(PRETRAINED)}")
    overrides: dict[str, Any] = {"bn_momentum": recipe.bn_momentum}
    for field in ("dropout", "stochastic_depth"):
        if getattr(recipe, field) is not None:
            overrides[field] = getattr(recipe, field)
    model = variant(name, activation=activation, shortcut=shortcut, num_classes=len(manifest.classes), **overrides)
    image_size = spec.image_size or scaled_resolution(model.resolution, manifest.image_size, recipe.upsample)
    cost: Complexity = complexity(model, image_size)
    return TrialPlan(
        trial_id=trial_id(manifest.name, name, activation, shortcut, seed),
        variant=name,
        seed=seed,
        model=model,
        image_size=image_size,
        eval_resize=round(image_size * model.eval_resize / model.resolution),
        min_crop=recipe.min_crop or (_MIN_CROP if manifest.image_size >= BASE_RESOLUTION else _MIN_CROP_SMALL),
        params=cost.params,
        macs=cost.macs,
        batches_per_epoch=batches,
        # Resolved here, where it is recorded: a later release may have another default.
        shuffle_block=spec.shuffle_block or manifest.default_shuffle_block,
        recipe=recipe,
    )


def scaled_resolution(resolution: int, native: int, upsample: float = 1.0) -> int:
    """Input size in pixels for a variant on images whose short side is `native` pixels.

    Data at least as large as B0's input keep the variant's own resolution. Smaller images are not blown up to it:
    B0 reads them as they are, and the others grow by the same compound factor (paper, section 3.3), rounded to
    multiples of 8 so that the strides divide. `upsample` enlarges them further, at most to the variant's own
    resolution: the last of the network's five strides of 2 leaves little of them otherwise.
    """
    if native >= BASE_RESOLUTION:
        return resolution
    return min(resolution, max(32, round(native * upsample * resolution / BASE_RESOLUTION / 8) * 8))


def trial_id(data: str, name: str, activation: str, shortcut: str, seed: int) -> str:
    """The readable name that MLflow, Ray and the logs share, such as `flowers-b3-silu-s0`."""
    parts = [slug(data), name, activation, *([shortcut] if shortcut != "residual" else []), f"s{seed}"]
    return "-".join(parts)
