"""`Plan`: what will run, derived from a specification and a data set before anything is started."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from ..datasets import BatchLayout, Manifest, Split
from ..effnet import VARIANTS, complexity, variant
from ..effnet.complexity import Complexity
from ..effnet.pretrained import PRETRAINED
from .errors import UserError
from .spec import ExperimentSpec, slug
from .training.execution import Execution
from .training.job import TrialPlan
from .training.micro_batch import largest_micro_batch, require_normalizable
from .training.workers import workers_of

BASE_RESOLUTION = VARIANTS["b0"].resolution
# Training crops: photos bear losing most of their area (8 % in the paper's ImageNet input); of an image of a few dozen
# pixels, half is often another class.
_MIN_CROP = 0.25
_MIN_CROP_SMALL = 0.7
# Characters of a digest, and names of classes, that a message shows.
_SHOWN, _LISTED = 12, 5


class SplitFacts(BaseModel):
    """What a plan remembers of a split: numbers of samples and shards, and a hash of the shards' names and hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    shards: int
    content: str

    @classmethod
    def of(cls, split: Split) -> Self:
        """The facts of a split as it is now."""
        named = "".join(f"{shard.name}:{shard.sha256};" for shard in split.shards)
        content = hashlib.sha256(named.encode()).hexdigest()[:_SHOWN]
        return cls(samples=len(split), shards=len(split.shards), content=content)


class DataFacts(BaseModel):
    """What a plan remembers of its data set, besides the digest, to say how another one differs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int
    mirror_safe: bool
    splits: dict[str, SplitFacts]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The facts of a data set as it is now."""
        splits = {name: SplitFacts.of(split) for name, split in manifest.splits.items()}
        return cls(image_size=manifest.image_size, mirror_safe=manifest.mirror_safe, splits=splits)

    def changes(self, now: DataFacts) -> Iterator[str]:
        """What is different now, in a few words each."""
        for name in dict.fromkeys((*self.splits, *now.splits)):
            before, after = self.splits.get(name), now.splits.get(name)
            if before is None or after is None:
                yield f"split {name} is {'new' if before is None else 'gone'}"
            elif before.samples != after.samples:
                yield f"{name} has {after.samples:,} images, not {before.samples:,}"
            elif before.shards != after.shards:
                yield f"{name} has {after.shards:,} shards, not {before.shards:,}"
            elif before.content != after.content:
                yield f"{name} has other shards"
        if self.image_size != now.image_size:
            yield f"their median side is {now.image_size} px, not {self.image_size}"
        if self.mirror_safe != now.mirror_safe:
            yield f"mirrored images {'keep' if now.mirror_safe else 'lose'} their class now"


class Plan(BaseModel):
    """Every trial of an experiment and the data that they share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: ExperimentSpec
    trials: tuple[TrialPlan, ...]
    classes: tuple[str, ...]
    train_samples: int
    val_samples: int
    data_digest: str
    data_facts: DataFacts | None = None  # plans of earlier versions have none

    @cached_property
    def spec_digest(self) -> str:
        """Names the training that this plan describes; a checkpoint of another one is refused."""
        content = json.dumps([trial.model_dump(mode="json") for trial in self.trials], sort_keys=True)
        return hashlib.sha256((content + self.data_digest).encode()).hexdigest()[:16]

    def trial(self, trial_id: str) -> TrialPlan:
        """The trial of that id. Raises `StopIteration` if there is none."""
        return next(trial for trial in self.trials if trial.trial_id == trial_id)

    def require_data(self, manifest: Manifest) -> None:
        """Refuse any other data than those that were planned.

        Raises:
            UserError: one line with both digests and what has changed.
        """
        if manifest.digest == self.data_digest:
            return
        changes = list(_class_changes(self.classes, manifest.classes))
        if self.data_facts:
            changes += self.data_facts.changes(DataFacts.of(manifest))
        # What is left then is the index: where an image lies, its label, its key.
        rest = "labels or keys of images differ" if self.data_facts else "the record does not say more"
        raise UserError(
            f"{manifest.location} no longer holds the data of '{self.spec.name}': digest {manifest.digest[:_SHOWN]}, "
            f"not {self.data_digest[:_SHOWN]}; {'; '.join(changes) or rest}; "
            "bring them back, or submit another experiment"
        )

    def run_by(self, execution: Execution) -> Plan:
        """The same trials, run in another way.

        Raises:
            UserError, DataError: the global batch does not divide over the workers, or leaves one of them too little.
        """
        spec = ExperimentSpec.parse(dict(self.spec) | {"execution": execution})
        _batches_per_epoch(spec, self.train_samples)
        _require_normalizable(spec, self.trials)
        return self.model_copy(update={"spec": spec})


def make_plan(spec: ExperimentSpec, manifest: Manifest) -> Plan:
    """Resolve every trial's model, resolution and cost, and refuse what cannot run.

    Raises:
        UserError: a recipe starts from published weights and a variant has none, or micro-batches are too small for
            BatchNorm.
        DataError: a split is missing, or the global batch does not divide over the workers or exceeds the data.
    """
    train, val = manifest.split("train"), manifest.split("val")
    batches = _batches_per_epoch(spec, len(train))
    trials = tuple(_plan_trial(spec, manifest, batches, *combination) for combination in spec.combinations())
    _require_normalizable(spec, trials)
    return Plan(
        spec=spec,
        trials=trials,
        classes=tuple(manifest.classes),
        train_samples=len(train),
        val_samples=len(val),
        data_digest=manifest.digest,
        data_facts=DataFacts.of(manifest),
    )


def _class_changes(before: tuple[str, ...], now: tuple[str, ...]) -> Iterator[str]:
    new, gone = (sorted(set(a) - set(b)) for a, b in ((now, before), (before, now)))
    for what, names in (("new", new), ("gone", gone)):
        if names:
            more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
            yield f"classes {what}: {', '.join(names[:_LISTED])}{more}"
    if not new and not gone and before != now:
        yield "the classes stand in another order"


def _batches_per_epoch(spec: ExperimentSpec, samples: int) -> int:
    most = max(_sure_counts(spec, name)[-1] for name in spec.variants)
    return BatchLayout(samples, spec.recipe.global_batch, world_size=most).batches


def _require_normalizable(spec: ExperimentSpec, trials: Iterable[TrialPlan]) -> None:
    for trial in trials:
        for workers in _sure_counts(spec, trial.variant):
            require_normalizable(trial, workers, largest_micro_batch(trial.recipe, workers))


def _sure_counts(spec: ExperimentSpec, variant: str) -> tuple[int, ...]:
    """The numbers of workers that a variant's trials may get; what the cluster decides can always be one."""
    counts = spec.worker_counts(variant)
    return counts if workers_of(spec.execution.workers, variant) else counts[:1]


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
