"""Arms of an experiment, each the trials that differ in their seeds alone, and whether two of them differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..tracking.records import TrialRecord
from .significance import Seeds, differences, spread_of

_Seeds: TypeAlias = Mapping[int, TrialRecord]


@dataclass(frozen=True)
class Arm:
    """Completed trials that differ in their seeds alone. Accuracies are fractions.

    Attributes:
        experiment: whose trials they are.
        variant, activation, shortcut, image_size, epochs, swept: what they have in common.
        data: the first 12 digits of the digest of the data set's manifest.
        params, macs: of the network.
        seeds: theirs, ascending.
        mean: of the best validation top-1 of any epoch.
        sd: the sample's standard deviation; None of one seed.
        low, high: the mean's 95 % percentile bootstrap interval; None of one seed.
        baseline: whether the others of these data are compared with this one: it has the fewest multiply-adds.
        difference: the mean difference to the baseline over the seeds that both have; None where there is none.
        pairs: how many these are.
        p: that a difference of its size comes about without one, two-sided, with Holm's correction; None of fewer than
            two pairs. It cannot be smaller than 2 / 2 ** pairs.
    """

    experiment: str
    variant: str
    activation: str
    shortcut: str
    image_size: int
    epochs: int
    data: str
    params: int
    macs: int
    seeds: tuple[int, ...]
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: bool = False
    difference: float | None = None
    pairs: int = 0
    p: float | None = None
    swept: Mapping[str, Any] = field(default_factory=dict)


def arms_of(records: Mapping[str, Sequence[TrialRecord]]) -> list[Arm]:
    """The arms of the completed trials in order of multiply-adds, data set by data set.

    Args:
        records: the trials of each experiment.
    """
    by_arm: dict[tuple[str, ...], dict[int, TrialRecord]] = defaultdict(dict)
    for experiment, trials in records.items():
        for record in trials:
            if record.final_top1 is not None:
                by_arm[experiment, *_key(record)][record.seed] = record
    by_data: dict[str, list[tuple[str, _Seeds]]] = defaultdict(list)
    for (experiment, digest, *_), by_seed in sorted(by_arm.items(), key=lambda item: _order(item[1])):
        by_data[digest].append((experiment, by_seed))
    return [arm for arms in by_data.values() for arm in _compare(arms)]


def repeated(arms: Sequence[Arm]) -> bool:
    """Whether any arm has several seeds, so that there is a spread to show."""
    return any(len(arm.seeds) > 1 for arm in arms)


def _key(record: TrialRecord) -> tuple[str, ...]:
    network = record.variant, record.activation, record.shortcut, record.image_size
    return tuple(map(str, (record.data_digest, *network, record.epochs, record.global_batch, dict(record.swept))))


def _order(by_seed: _Seeds) -> tuple[object, ...]:
    first = by_seed[min(by_seed)]
    return first.macs, first.params, first.trial_id


def _compare(arms: Sequence[tuple[str, _Seeds]]) -> list[Arm]:
    """The arms of one data set, the first of which is the baseline."""
    baseline, others = _top1s(arms[0][1]), arms[1:]
    found = [replace(_summary(*arms[0]), baseline=len(arms) > 1)]
    compared = differences([(_top1s(by_seed), baseline) for _, by_seed in others])
    for arm, difference in zip(others, compared, strict=True):
        found.append(replace(_summary(*arm), difference=difference.mean, pairs=difference.pairs, p=difference.p))
    return found


def _summary(experiment: str, by_seed: _Seeds) -> Arm:
    seeds = tuple(sorted(by_seed))
    first, top1s = by_seed[seeds[0]], _top1s(by_seed)
    spread = spread_of([top1s[seed] for seed in seeds])
    return Arm(
        experiment=experiment,
        variant=first.variant,
        activation=first.activation,
        shortcut=first.shortcut,
        image_size=first.image_size,
        epochs=first.epochs,
        data=first.data_digest[:12],
        params=first.params,
        macs=first.macs,
        seeds=seeds,
        mean=spread.mean,
        sd=spread.sd,
        low=spread.low,
        high=spread.high,
        swept=first.swept,
    )


def _top1s(by_seed: _Seeds) -> Seeds:
    return {seed: record.best_top1 for seed, record in by_seed.items() if record.best_top1 is not None}
