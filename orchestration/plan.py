"""`Plan`: what will run, derived from a specification and a data set before anything is started."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from ..datasets import BatchLayout, Manifest, Split
from ..effnet import BASELINES
from ..effnet.pretrained import PRETRAINED, misfit
from .errors import UserError
from .search.domains import Choice, Value
from .search.names import trial_id
from .search.space import Configuration, Network, Space
from .sizing.networks import BASE_RESOLUTION, planned_network
from .spec import ExperimentSpec, parse_fields
from .training.execution import Execution
from .training.job import TrialPlan
from .training.micro_batch import largest_micro_batch, require_normalizable
from .training.workers import workers_of

# Training crops: photos bear losing most of their area (8 % in the paper's ImageNet input); of an image of a few dozen
# pixels, half is often another class.
_MIN_CROP = 0.25
_MIN_CROP_SMALL = 0.7
# Characters of a digest, and names of classes, that a message shows.
_SHOWN, _LISTED = 12, 5
# Fields of a recipe that are the variant's own unless given.
_OF_VARIANT = ("dropout", "stochastic_depth")
# Fields of a recipe that have a say in whether a trial can run.
_DECISIVE = (
    *("global_batch", "micro_batch", "freeze_backbone", "sync_bn", "upsample", "pretrained", "mixup", "cutmix"),
    *("checkpoint_activations", *_OF_VARIANT),
)


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
    """What a plan remembers of its data set, besides the digest: to plan more trials, and to say how others differ.

    `name` and `shuffle_block` are the manifest's name and default; plans of earlier versions have neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int
    mirror_safe: bool
    splits: dict[str, SplitFacts]
    name: str | None = None
    shuffle_block: int | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The facts of a data set as it is now."""
        splits = {name: SplitFacts.of(split) for name, split in manifest.splits.items()}
        return cls(
            image_size=manifest.image_size,
            mirror_safe=manifest.mirror_safe,
            splits=splits,
            name=manifest.name,
            shuffle_block=manifest.default_shuffle_block,
        )

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
    def trials_by_id(self) -> Mapping[str, TrialPlan]:
        """The trials by their names."""
        return {trial.trial_id: trial for trial in self.trials}

    @cached_property
    def _listed(self) -> Mapping[frozenset[tuple[str, Value]], TrialPlan]:
        return {frozenset(trial.configuration.items()): trial for trial in self.trials}

    @property
    def trial_count(self) -> int:
        """How many trials there will be, those included that an adaptive search has not made up yet."""
        return len(self.trials) or self.spec.trial_count

    @cached_property
    def examples(self) -> tuple[TrialPlan, ...]:
        """Trials that stand for all: the plan's or, of a search that makes them up as it goes, one per network."""
        if self.trials:
            return self.trials
        space = self.spec.space
        sweep = {name: domain.ends[0] for name, domain in space.sweep.items()}
        networks = (space.configuration(network, sweep, space.seeds[0]) for network in space.networks)
        return tuple(map(self.trial_of, networks))

    @cached_property
    def typical(self) -> tuple[TrialPlan, ...]:
        """As many trials as there will be: the plan's or, of a search that makes them up, its examples in turns."""
        if self.trials:
            return self.trials
        repeated = itertools.islice(itertools.cycle(self.examples), self.trial_count)
        named = ((f"{trial.trial_id}-{number}", trial) for number, trial in enumerate(repeated, 1))
        return tuple(trial.model_copy(update={"trial_id": name}) for name, trial in named)

    def model_copy(self, **changes: Any) -> Self:
        """A copy without what was derived of the original, which may no longer hold."""
        copied = super().model_copy(**changes)
        for name in [name for name in vars(copied) if name not in type(self).model_fields]:
            del vars(copied)[name]
        return copied

    def trial(self, trial_id: str) -> TrialPlan:
        """The listed trial of that id. Raises `KeyError` if there is none."""
        return self.trials_by_id[trial_id]

    def trial_of(self, configuration: Mapping[str, Any]) -> TrialPlan:
        """The trial of a flat configuration: the one that is listed, or what this plan alone makes of it.

        Args:
            configuration: variant, activation, shortcut, seed and swept fields of the recipe, as
                `TrialPlan.configuration` has them.

        Raises:
            UserError, DataError: the trial cannot run, or the plan is of an earlier version and does not list it.
        """
        listed = self._listed.get(frozenset(configuration.items()))
        return listed or self._planned(**configuration)

    def worker_counts(self, trial: TrialPlan) -> tuple[int, ...]:
        """The numbers of workers that a trial can have, ascending."""
        return self.spec.execution.worker_counts(trial.variant, trial.recipe.global_batch)

    def sure_counts(self, variant: str, global_batch: int) -> tuple[int, ...]:
        """The numbers of workers that a trial must be able to run with; what the cluster decides can always be one."""
        execution = self.spec.execution
        counts = execution.worker_counts(variant, global_batch)
        return counts if workers_of(execution.workers, variant) else counts[:1]

    def _planned(self, variant: str, activation: str, shortcut: str, seed: int, **swept: Value) -> TrialPlan:
        spec, facts = self.spec, self.data_facts
        if facts is None or facts.name is None or facts.shuffle_block is None:
            raise UserError(f"'{spec.name}' was planned by an earlier version, which cannot add trials; submit it anew")
        epochs = {"epochs": spec.variant_epochs[variant]} if variant in spec.variant_epochs else {}
        recipe = parse_fields(type(spec.recipe), spec.recipe.model_dump() | epochs | swept)
        swept = {field: getattr(recipe, field) for field in swept}
        if recipe.pretrained and variant not in PRETRAINED:
            known = ", ".join(name for name in PRETRAINED if name not in BASELINES)
            raise UserError(
                f"there are no published weights of {variant} to start from; choose from {known}, "
                "or torchvision's networks such as resnet18"
            )
        own = {"bn_momentum": recipe.bn_momentum}
        own |= {field: found for field in _OF_VARIANT if (found := getattr(recipe, field)) is not None}
        model, image_size, cost = planned_network(
            Network(variant, activation, shortcut),
            tuple(own.items()),
            len(self.classes),
            spec.image_size,
            facts.image_size,
            recipe.upsample,
        )
        if recipe.checkpoint_activations and not model.can_checkpoint:
            raise UserError(f"--checkpoint-activations is not for torchvision's {variant}; leave out one of them")
        if recipe.pretrained and (part := misfit(model)):
            raise UserError(f"published weights do not fit {variant} with {part}, which changes its parameters")
        trial = TrialPlan(
            trial_id=trial_id(facts.name, variant, activation, shortcut, seed, swept),
            variant=variant,
            seed=seed,
            model=model,
            image_size=image_size,
            eval_resize=round(image_size * model.eval_resize / model.resolution),
            min_crop=recipe.min_crop or (_MIN_CROP if facts.image_size >= BASE_RESOLUTION else _MIN_CROP_SMALL),
            params=cost.params,
            macs=cost.macs,
            batches_per_epoch=_batches_per_epoch(self, variant, recipe.global_batch),
            # Resolved here, where it is recorded: a later release may have another default.
            shuffle_block=spec.shuffle_block or facts.shuffle_block,
            recipe=recipe,
            swept=swept,
        )
        _require_normalizable(self, trial)
        return trial

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
        plan = self.model_copy(update={"spec": spec})
        if plan.trials:
            for trial in plan.trials:
                _batches_per_epoch(plan, trial.variant, trial.recipe.global_batch)
                _require_normalizable(plan, trial)
        elif spec.search.adaptive:
            _require_corners(plan)
        return plan


def make_plan(spec: ExperimentSpec, manifest: Manifest) -> Plan:
    """Resolve every trial's recipe, model, resolution and cost, and refuse what cannot run.

    An adaptive search makes up its trials as it goes; of those the plan lists none, and checks the outermost.

    Raises:
        UserError: a recipe starts from published weights and a variant has none, or micro-batches are too small for
            BatchNorm.
        DataError: a split is missing, or a global batch does not divide over the workers or exceeds the data.
    """
    train, val = manifest.split("train"), manifest.split("val")
    plan = Plan(
        spec=spec,
        trials=(),
        classes=tuple(manifest.classes),
        train_samples=len(train),
        val_samples=len(val),
        data_digest=manifest.digest,
        data_facts=DataFacts.of(manifest),
    )
    if spec.search.adaptive:
        _require_corners(plan)
        return plan
    return plan.model_copy(update={"trials": tuple(map(plan.trial_of, configurations(spec)))})


def configurations(spec: ExperimentSpec) -> Iterator[Configuration]:
    """What the trials of a grid or a random search are, in order; more trials of a search begin with the same ones."""
    search, space = spec.search, spec.space
    if search.method == "grid":
        return space.grid()
    return itertools.islice(space.draws(spec.search_seed), search.trials)


def _require_corners(plan: Plan) -> None:
    """Plan every combination of the outermost values that have a say in whether a trial can run."""
    space = plan.spec.space
    sweep = {name: dom if name in _DECISIVE else Choice(dom.ends[:1]) for name, dom in space.sweep.items()}
    for configuration in Space(space.networks, sweep, space.seeds[:1]).grid():
        plan.trial_of(configuration)


def _class_changes(before: tuple[str, ...], now: tuple[str, ...]) -> Iterator[str]:
    new, gone = (sorted(set(a) - set(b)) for a, b in ((now, before), (before, now)))
    for what, names in (("new", new), ("gone", gone)):
        if names:
            more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
            yield f"classes {what}: {', '.join(names[:_LISTED])}{more}"
    if not new and not gone and before != now:
        yield "the classes stand in another order"


def _batches_per_epoch(plan: Plan, name: str, global_batch: int) -> int:
    workers = plan.sure_counts(name, global_batch)[-1]
    return BatchLayout(plan.train_samples, global_batch, world_size=workers).batches


def _require_normalizable(plan: Plan, trial: TrialPlan) -> None:
    for workers in plan.sure_counts(trial.variant, trial.recipe.global_batch):
        require_normalizable(trial, workers, largest_micro_batch(trial.recipe, workers))
