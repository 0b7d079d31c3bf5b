"""What a study compares: arms, each with a completed trial per seed, at the settings that were chosen for it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...search.domains import texts_of
from ...tracking.histories import EpochPoint
from ...tracking.records import TrialRecord
from ..contents import Reported, VariantAsked
from ..significance import Seeds, Spread, spread_of

UNASKED = VariantAsked("", 1.0, "")
"""Of a variant of which the study says nothing."""


@dataclass(frozen=True)
class StudyArm:
    """Trials of one variant, activation and shortcut, and of one value of what the study compares besides.

    Attributes:
        variant, activation, shortcut: theirs.
        value: of the swept fields that the study compares, such as `ema 0.99`; empty where it compares none.
        asked: what the variant stands for.
        params, macs: of the network.
        started: how many trials have started.
        grid: the best top-1 of completed trials by the values of swept fields and by seed.
        chosen: a completed trial per seed, ascending, at the values that the other seeds chose; see `choose`.
        settings: the values that were chosen, by seed; empty texts where nothing was swept.
        histories: the epochs of the chosen trials, by seed.
    """

    variant: str
    activation: str
    shortcut: str
    value: str
    asked: VariantAsked
    params: int
    macs: int
    started: int
    grid: Mapping[str, Seeds]
    chosen: Mapping[int, TrialRecord] = field(default_factory=dict)
    settings: Mapping[int, str] = field(default_factory=dict)
    histories: Mapping[int, Sequence[EpochPoint]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The variant for people."""
        return self.asked.label or self.variant

    @property
    def base(self) -> str:
        """The variant that this one's scale is of."""
        return self.asked.base

    @cached_property
    def top1s(self) -> Seeds:
        """The best validation top-1 of any epoch, by seed."""
        return {seed: one.best_top1 for seed, one in self.chosen.items() if one.best_top1 is not None}

    @cached_property
    def spread(self) -> Spread | None:
        """Of the top-1; None without completed trials."""
        return spread_of(list(self.top1s.values())) if self.top1s else None

    @cached_property
    def losses(self) -> Seeds:
        """The training loss of the last epoch, by seed, where it was logged."""
        found = {seed: [point.loss for point in epochs] for seed, epochs in self.histories.items()}
        return {seed: losses[-1] for seed, losses in found.items() if losses and losses[-1] is not None}

    @cached_property
    def last_top1s(self) -> Seeds:
        """The validation top-1 of the last epoch, by seed, where it was logged."""
        found = {seed: [point.top1 for point in epochs] for seed, epochs in self.histories.items()}
        return {seed: top1s[-1] for seed, top1s in found.items() if top1s and top1s[-1] is not None}

    @cached_property
    def seconds_per_epoch(self) -> float | None:
        """Of training, the mean of the chosen trials."""
        known = [one.seconds / one.epochs_done for one in self.chosen.values() if one.epochs_done]
        return statistics.fmean(known) if known else None


def arms_of(experiment: Reported) -> list[StudyArm]:
    """The arms of an experiment: variants in the order of the study, the rest as it was asked for."""
    study = experiment.study
    places = {variant: place for place, variant in enumerate(study.variants if study else ())}
    compared = study.compared if study else ()
    found: dict[tuple[str, str, str, str], list[TrialRecord]] = defaultdict(list)
    for record in experiment.records:
        value = _text(record, [name for name in compared if name in record.swept])
        found[record.variant, record.activation, record.shortcut, value].append(record)
    ordered = sorted(found.items(), key=lambda item: places.get(item[0][0], len(places)))
    return [
        _arm(experiment, records, value, study.variants.get(variant, UNASKED) if study else UNASKED)
        for (variant, _, _, value), records in ordered
    ]


def _arm(experiment: Reported, records: Sequence[TrialRecord], value: str, asked: VariantAsked) -> StudyArm:
    first = records[0]
    compared = experiment.study.compared if experiment.study else ()
    tuned = sorted(first.swept.keys() - set(compared))
    by_setting: dict[str, dict[int, TrialRecord]] = defaultdict(dict)
    grid: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        if (top1 := record.final_top1) is not None:
            setting = _text(record, tuned)
            by_setting[setting][record.seed], grid[setting][record.seed] = record, top1
    settings = choose(grid)
    chosen = {seed: by_setting[setting][seed] for seed, setting in sorted(settings.items())}
    return StudyArm(
        variant=first.variant,
        activation=first.activation,
        shortcut=first.shortcut,
        value=value,
        asked=asked,
        params=first.params,
        macs=first.macs,
        started=len(records),
        grid=grid,
        chosen=chosen,
        settings=settings,
        histories={seed: experiment.epochs(record) for seed, record in chosen.items()},
    )


def _text(record: TrialRecord, names: Sequence[str]) -> str:
    """Swept fields and their values, such as `ema 0.99, lr 0.004`."""
    return ", ".join(f"{name} {text}" for name, text in zip(names, texts_of(record.swept, names), strict=True))


def choose(grid: Mapping[str, Seeds]) -> dict[int, str]:
    """The setting at which each seed counts: the best in the mean over the other seeds.

    A seed that chose for itself would flatter: of several settings, the luckiest one would win. Only settings at which
    the most seeds have completed can be chosen; those at which some failed would be judged by the others alone. A seed
    without others has nobody to choose for it, and takes its own best.

    Args:
        grid: a value per setting and seed.
    """
    most = max(map(len, grid.values()), default=0)
    candidates = {setting: seeds for setting, seeds in grid.items() if len(seeds) == most}
    chosen = {}
    for seed in sorted({seed for seeds in candidates.values() for seed in seeds}):
        judged = {
            setting: statistics.fmean([value for other, value in seeds.items() if other != seed] or [seeds[seed]])
            for setting, seeds in candidates.items()
            if seed in seeds
        }
        chosen[seed] = max(judged, key=lambda setting: judged[setting])
    return chosen


@dataclass(frozen=True)
class Group:
    """The arms of a study that are compared with each other.

    Attributes:
        key: begins the keys of their figures and tables.
        suffix: ends their titles; empty where there is one group.
        arms: theirs.
    """

    key: str
    suffix: str
    arms: Sequence[StudyArm]

    @property
    def done(self) -> list[StudyArm]:
        """The arms with completed trials."""
        return [arm for arm in self.arms if arm.spread]


def groups_of(arms: Sequence[StudyArm], key: str, apart: Sequence[str]) -> list[Group]:
    """Arms in groups that have all of these attributes in common.

    Args:
        arms: in their order.
        key: begins the groups' keys.
        apart: such as `activation` and `shortcut`.
    """
    found: dict[tuple[str, ...], list[StudyArm]] = defaultdict(list)
    for arm in arms:
        found[tuple(getattr(arm, name) for name in apart)].append(arm)
    return [
        Group(f"{key}-{number}", f" ({', '.join(values)})" if len(found) > 1 else "", own)
        for number, (values, own) in enumerate(found.items(), 1)
    ]
