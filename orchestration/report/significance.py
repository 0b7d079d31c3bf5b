"""How values spread over seeds, whether paired ones differ, and what so many seeds could have seen.

One statistics for all: the mean with a bootstrap interval, and a sign-flip test of the differences of paired seeds,
whose data order is the same, with Holm's correction (Holm 1979) for the number of comparisons. SciPy has all of it but
Holm's, but its import takes seconds; tests compare with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT = 0.05
CONFIDENCE = 0.95
POWER = 0.8
# A sign-flip test is exact up to this many signs of all the differences; then it draws so many.
_MOST_FLIPS = 2**14
_RESAMPLES = 5000

Seeds: TypeAlias = Mapping[int, float]
"""A value per seed."""


@dataclass(frozen=True)
class Spread:
    """Values of several seeds.

    Attributes:
        n: how many.
        mean: theirs.
        sd: the sample's standard deviation; None of one value.
        low, high: the mean's 95 % percentile bootstrap interval; None of one value.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def exact(self) -> tuple[int, float, float | None, float | None, float | None]:
        """For CSV files: n, mean, sd, low and high."""
        return self.n, self.mean, self.sd, self.low, self.high


@dataclass(frozen=True)
class Difference:
    """What an arm has more than another, over the seeds that both have.

    Attributes:
        spread: of the seeds' differences; None where they share no seed.
        p: that a mean difference of its size comes about without one, two-sided, with Holm's correction; None of fewer
            than two pairs.
    """

    spread: Spread | None = None
    p: float | None = None

    @property
    def pairs(self) -> int:
        """How many seeds both have."""
        return self.spread.n if self.spread else 0

    @property
    def mean(self) -> float | None:
        """Of the differences."""
        return self.spread.mean if self.spread else None

    @property
    def is_told_apart(self) -> bool:
        """Whether the test supports that there is a difference."""
        return self.p is not None and self.p < SIGNIFICANT

    @property
    def detectable(self) -> float | None:
        """The difference that so many seeds could have seen; None of fewer than two pairs."""
        if self.spread is None or self.spread.sd is None:
            return None
        return detectable(self.spread.sd, self.spread.n)

    @property
    def verdict(self) -> str:
        """In words: `higher`, `lower`, `not told apart` or `not tested`."""
        if self.spread is None or self.p is None:
            return "not tested"
        return ("higher" if self.spread.mean > 0 else "lower") if self.is_told_apart else "not told apart"


def spread_of(values: Sequence[float]) -> Spread:
    """Of one value or more."""
    found = Spread(len(values), statistics.fmean(values))
    if found.n == 1:
        return found
    low, high = bootstrap_interval(values)
    return replace(found, sd=statistics.stdev(values), low=low, high=high)


def differences(pairs: Sequence[tuple[Seeds, Seeds]]) -> list[Difference]:
    """What the first of each two arms has more than the second, tested with Holm's correction for all of them."""
    found = [[one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())] for one, other in pairs]
    ps = holm([sign_flip_p(values) if len(values) > 1 else None for values in found])
    return [Difference(spread_of(values) if values else None, p) for values, p in zip(found, ps, strict=True)]


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of two or more values; the same in every call."""
    means = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def sign_flip_p(values: Sequence[float]) -> float:
    """The two-sided p of differences that, without an effect, would as well have the other sign (Fisher 1935).

    Exact for up to 14 differences: the share of all assignments of signs whose mean is as far from zero. Of more, it
    draws assignments, among which the one that was seen counts, so that p is never zero (Phipson and Smyth 2010).
    """
    sizes = np.abs(np.asarray(values))
    flips = _flips(len(sizes))
    # Sums that are equal in truth may differ in their last bits.
    seen = abs(float(np.sum(values))) - 1e-12 * float(sizes.sum())
    as_far = int(np.sum(np.abs(flips @ sizes) >= seen))
    drawn = 2 ** len(sizes) > len(flips)
    return float((as_far + drawn) / (len(flips) + drawn))


@lru_cache(maxsize=4)
def _flips(count: int) -> NDArray[np.float64]:
    """Signs of so many differences, a row per assignment: all of them, or as many as are drawn."""
    if 2**count > _MOST_FLIPS:
        return np.random.default_rng(0).choice((-1.0, 1.0), (_MOST_FLIPS, count))
    return np.where(np.arange(2**count)[:, None] >> np.arange(count) & 1, -1.0, 1.0)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of the p values that there are."""
    order = sorted((number for number, p in enumerate(ps) if p is not None), key=lambda number: ps[number] or 0.0)
    corrected: list[float | None] = [None] * len(ps)
    reached = 0.0
    for rank, number in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * (ps[number] or 0.0)))
        corrected[number] = reached
    return corrected


def smallest_p(pairs: int, comparisons: int = 1) -> float:
    """The smallest p that so many pairs can give with Holm's correction for so many comparisons."""
    return min(1.0, comparisons * 2.0 ** (1 - pairs))


def seeds_needed(comparisons: int = 1) -> int:
    """The fewest seeds with which one of so many comparisons can be significant."""
    return next(pairs for pairs in range(1, 1000) if smallest_p(pairs, comparisons) < SIGNIFICANT)


def detectable(sd: float, pairs: int) -> float:
    """The difference that a paired test at 5 % finds in four of five studies; of two pairs or more.

    It is that of a t test of one comparison, which a sign-flip test of six pairs or more is close to.

    Args:
        sd: of the paired differences.
        pairs: how many.
    """
    quantiles = (t_quantile(q, pairs - 1) for q in (1 - SIGNIFICANT / 2, POWER))
    return sum(quantiles) * sd / math.sqrt(pairs)


def t_quantile(q: float, df: int) -> float:
    """Of Student's t distribution with whole degrees of freedom, for q of one half or more.

    Its distribution is a finite sum in the angle whose tangent is t / √df (Abramowitz and Stegun 1964, 26.7.3 and
    26.7.4), which grows with the angle: the quantile is found by halving.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < 2 * q - 1 else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def _within(angle: float, df: int) -> float:
    """The probability that |t| is less than √df times the angle's tangent."""
    cosine, odd = math.cos(angle), df % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 + odd, df, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
