"""Spreads and tests, against SciPy's and against what can be said by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from effnet_cluster.orchestration.report.significance import (
    Difference,
    Spread,
    bootstrap_interval,
    detectable,
    differences,
    holm,
    seeds_needed,
    sign_flip_p,
    smallest_p,
    spread_of,
    t_quantile,
)

VALUES = st.integers(-1024, 1024).map(lambda number: number / 1024)
"""Fractions whose sums floats have exactly: SciPy, too, has to see which are equal."""


@given(st.lists(VALUES, min_size=2, max_size=10))
@settings(max_examples=60, deadline=None)
def test_the_sign_flip_test_is_scipys_exact_one(values: list[float]) -> None:
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=2**12, alternative="two-sided"
    ).pvalue
    if len(set(map(abs, values))) == len(values):  # SciPy doubles a side, which ties make too large
        assert sign_flip_p(values) == pytest.approx(expected)
    assert sign_flip_p(values) <= expected + 1e-12
    assert sign_flip_p(values) >= 2 / 2 ** len(values)
    assert sign_flip_p([-value for value in values]) == sign_flip_p(values)


def test_five_seeds_can_never_reach_a_p_of_0_05_and_six_can() -> None:
    assert sign_flip_p([0.1] * 5) == 2 / 2**5 > 0.05
    assert sign_flip_p([0.1] * 6) == 2 / 2**6 < 0.05
    assert sign_flip_p([0.1, 0.2, 0.3 - 0.6]) == 1.0  # the sum is zero but for its last bit
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_many_seeds_are_drawn_from_and_near_the_exact_p() -> None:
    values = list(np.random.default_rng(3).normal(0.3, 1.0, 20))
    assert sign_flip_p(values) == sign_flip_p(values)
    signs = 1 - 2 * (np.arange(2**20)[:, None] >> np.arange(20) & 1).astype(np.int8)
    exact = np.mean(np.abs(signs @ np.asarray(values)) >= abs(sum(values)) - 1e-9)
    assert sign_flip_p(values) == pytest.approx(exact, abs=4 * math.sqrt(exact / 2**14))


def test_the_interval_is_scipys_but_for_chance() -> None:
    values = list(np.random.default_rng(0).normal(0.9, 0.02, 12))
    found = bootstrap_interval(values)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.001)
    assert found == bootstrap_interval(values)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04, None, 0.9]) == [pytest.approx(0.08), None, pytest.approx(0.9)]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("df", [*range(1, 12), 30, 31, 200])
def test_quantiles_of_t_are_scipys(df: int) -> None:
    for q in (0.5, 0.8, 0.975, 0.999):
        assert t_quantile(q, df) == pytest.approx(stats.t.ppf(q, df), rel=1e-9, abs=1e-12)


def test_what_six_seeds_could_have_seen_by_hand() -> None:
    # t of 5 degrees of freedom: 2.5706 and 0.9195.
    assert detectable(0.01, 6) == pytest.approx((2.5706 + 0.9195) * 0.01 / math.sqrt(6), rel=1e-4)
    # A t test of such a difference has about 80 % power: exactly, by the noncentral t distribution.
    shift = detectable(1.0, 6) * math.sqrt(6)
    critical = stats.t.ppf(0.975, 5)
    assert stats.nct.sf(critical, 5, shift) + stats.nct.cdf(-critical, 5, shift) == pytest.approx(0.8, abs=0.02)


def test_the_smallest_p_and_the_seeds_that_it_takes() -> None:
    assert (smallest_p(6), smallest_p(6, 3), smallest_p(1, 9)) == (2 / 64, 6 / 64, 1.0)
    assert [seeds_needed(comparisons) for comparisons in (1, 2, 3, 4, 120)] == [6, 7, 7, 8, 13]


def test_differences_are_of_the_seeds_that_both_have() -> None:
    first = dict.fromkeys(range(7), 0.5)
    better = dict.fromkeys((1, 2, 3, 4, 5, 6, 7), 0.625)
    up, worse, one, none = differences([(better, first), ({**first, 0: 0.25}, first), ({0: 0.75}, first), ({}, first)])
    # Six pairs, tested with one other: its seven have one that is not zero, so its p is 1.
    assert (up.pairs, up.mean, up.p, up.verdict) == (6, 0.125, 2 * 2 / 2**6, "not told apart")
    assert (worse.pairs, worse.mean, worse.p) == (7, pytest.approx(-0.25 / 7), 1.0)
    assert worse.detectable == pytest.approx(detectable(0.25 / math.sqrt(7), 7))
    assert (one.spread, one.p, one.verdict, one.detectable) == (Spread(1, 0.25), None, "not tested", None)
    assert none == Difference()
    (alone,) = differences([(first, dict.fromkeys(range(6), 0.75))])
    assert (alone.p, alone.verdict) == (2 / 2**6, "lower")


def test_a_spread_by_hand() -> None:
    found = spread_of([0.5, 0.75])
    assert (found.n, found.mean, found.sd) == (2, 0.625, pytest.approx(0.25 / math.sqrt(2)))
    assert (found.low, found.high) == (0.5, 0.75)  # of the means of two draws, more than 2.5 % are at either end
    assert spread_of([0.5]) == Spread(1, 0.5)
