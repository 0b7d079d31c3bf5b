"""Arms of an experiment, each the trials that differ in their seeds alone, and whether two of them differ.

One statistics for all: the mean with a bootstrap interval, and a sign-flip test of the differences of paired seeds,
whose data order is the same, with Holm's correction (Holm 1979) for the number of arms. SciPy has the first two, but
its import takes seconds; tests compare with it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..tracking.records import Outcome, TrialRecord

CONFIDENCE = 0.95
# A sign-flip test is exact up to this many signs of all the differences; then it draws so many.
_MOST_FLIPS = 2**14
_RESAMPLES = 5000
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
            if record.outcome is Outcome.COMPLETED and record.best_top1 is not None:
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
    baseline, others = arms[0][1], arms[1:]
    found = [replace(_summary(*arms[0]), baseline=len(arms) > 1)]
    differences = [
        [_top1(by_seed[seed]) - _top1(baseline[seed]) for seed in by_seed.keys() & baseline.keys()]
        for _, by_seed in others
    ]
    corrected = holm([sign_flip_p(values) if len(values) > 1 else None for values in differences])
    for arm, values, p in zip(others, differences, corrected, strict=True):
        mean = statistics.fmean(values) if values else None
        found.append(replace(_summary(*arm), difference=mean, pairs=len(values), p=p))
    return found


def _summary(experiment: str, by_seed: _Seeds) -> Arm:
    seeds = tuple(sorted(by_seed))
    values, first = [_top1(by_seed[seed]) for seed in seeds], by_seed[seeds[0]]
    arm = Arm(
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
        mean=statistics.fmean(values),
        swept=first.swept,
    )
    if len(values) == 1:
        return arm
    low, high = bootstrap_interval(values)
    return replace(arm, sd=statistics.stdev(values), low=low, high=high)


def _top1(record: TrialRecord) -> float:
    assert record.best_top1 is not None
    return record.best_top1


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of two or more values; the same in every call."""
    means = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """The two-sided p of differences that, without an effect, would as well have the other sign (Fisher 1935).

    Exact for up to 14 differences: the share of all assignments of signs whose mean is as far from zero.
    """
    sizes = np.abs(np.asarray(differences))
    if len(sizes) > int(np.log2(_MOST_FLIPS)):
        flips = np.random.default_rng(0).choice((-1.0, 1.0), (_MOST_FLIPS, len(sizes)))
    else:
        flips = 1.0 - 2.0 * (np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1)
    # Sums that are equal in truth may differ in their last bits.
    seen = abs(float(np.sum(differences))) - 1e-12 * float(sizes.sum())
    return float(np.mean(np.abs(flips @ sizes) >= seen))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p values that there are."""
    order = sorted((number for number, p in enumerate(ps) if p is not None), key=lambda number: ps[number] or 0.0)
    corrected: list[float | None] = [None] * len(ps)
    reached = 0.0
    for rank, number in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * (ps[number] or 0.0)))
        corrected[number] = reached
    return corrected
