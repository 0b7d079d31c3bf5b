"""What a study's numbers say, as plain functions: where a line saturates, what costs the same, which order changes."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ...tracking.histories import EpochPoint
from ..significance import Difference, Spread, spread_of
from .arms import StudyArm

BUDGETS = (0.25, 0.5, 1.0)
"""Shares of the epochs at which the order of the arms is read."""
# Two networks cost about the same when neither has more than this times the other's multiply-adds.
ABOUT_EQUAL = 1.25


def saturates_at(steps: Sequence[Difference]) -> int:
    """The number of steps from a line's begin to where it saturates: after it, the test supports no further gain.

    Args:
        steps: what each point of the line has more than the one before it.
    """
    gains = [number for number, step in enumerate(steps, 1) if step.verdict == "higher"]
    return gains[-1] if gains else 0


def nearest_in_macs(arm: StudyArm, others: Sequence[StudyArm]) -> StudyArm | None:
    """The one of others whose multiply-adds are nearest, by their ratio; None where none costs about the same."""

    def apart(other: StudyArm) -> float:
        return abs(math.log(other.macs / arm.macs))

    nearest = min(others, key=apart, default=None)
    return nearest if nearest is not None and apart(nearest) <= math.log(ABOUT_EQUAL) else None


def best_so_far(epochs: Sequence[EpochPoint], share: float) -> float | None:
    """The best top-1 of the first epochs of a trial, of so large a share of them, rounded up; None without any."""
    most = math.ceil(share * max((point.epoch for point in epochs), default=0))
    return max((point.top1 for point in epochs if point.epoch <= most and point.top1 is not None), default=None)


@dataclass(frozen=True)
class Standing:
    """An arm at each of the budgets: the mean over seeds of the best top-1 so far, and its rank, from 1.

    `n` seeds have a history.
    """

    arm: int
    n: int
    means: Sequence[float]
    ranks: Sequence[int]


def standings(arms: Sequence[StudyArm]) -> list[Standing]:
    """The arms whose epochs are known, best first; `arm` is the number in the given order. Equal means rank equally."""
    means: dict[int, list[float]] = {}
    seeds: dict[int, int] = {}
    for number, arm in enumerate(arms):
        found = [[best_so_far(epochs, share) for share in BUDGETS] for epochs in arm.histories.values()]
        known = [[value for value in row if value is not None] for row in found if None not in row]
        if known:
            means[number] = [statistics.fmean(column) for column in zip(*known, strict=True)]
            seeds[number] = len(known)
    ranks = {
        number: [1 + sum(other[place] > mean for other in means.values()) for place, mean in enumerate(own)]
        for number, own in means.items()
    }
    found_ = [Standing(number, seeds[number], own, ranks[number]) for number, own in means.items()]
    return sorted(found_, key=lambda one: (one.ranks[-1], one.arm))


def swaps(found: Sequence[Standing]) -> list[tuple[Standing, Standing]]:
    """The pairs whose order at smaller budgets is not that at the whole of the epochs; the finally better one first."""
    pairs = []
    for one, other in combinations(found, 2):
        better, worse = (one, other) if one.means[-1] >= other.means[-1] else (other, one)
        if better.means[-1] > worse.means[-1] and any(
            a < b for a, b in zip(better.means[:-1], worse.means[:-1], strict=True)
        ):
            pairs.append((better, worse))
    return pairs


def gradients_at_start(arm: StudyArm) -> dict[str, Spread]:
    """The norm of the gradient at the first step, by part of the network in its order; empty where none was logged."""
    norms: dict[str, list[float]] = defaultdict(list)
    for epochs in arm.histories.values():
        for point in epochs:
            if point.epoch == 1:
                for part, norm in point.gradients.items():
                    if math.isfinite(norm):
                        norms[part].append(norm)
    return {part: spread_of(values) for part, values in norms.items()}


def gradient_ratios(arm: StudyArm) -> dict[int, Spread]:
    """The first part's norm over the last part's, by epoch; without seeds whose last part has none."""
    ratios: dict[int, list[float]] = defaultdict(list)
    for epochs in arm.histories.values():
        for point in epochs:
            norms = list(point.gradients.values())
            if len(norms) > 1 and norms[-1] and all(map(math.isfinite, norms)):
                ratios[point.epoch].append(norms[0] / norms[-1])
    return {epoch: spread_of(values) for epoch, values in sorted(ratios.items())}


def by_name(arms: Sequence[StudyArm], name: str) -> Mapping[str, list[StudyArm]]:
    """Arms by an attribute, such as `shortcut`, in the order in which its values come."""
    found: dict[str, list[StudyArm]] = {}
    for arm in arms:
        found.setdefault(getattr(arm, name), []).append(arm)
    return found
