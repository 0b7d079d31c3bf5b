"""The solver against brute force, and what it rests on: costs that never fall when a dimension grows."""

import math
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cluster.effnet.budget import Budget, Grid, base_grid, largest_of, largest_on_grid, largest_phi, phis
from effnet_cluster.effnet.memory import TrainingEstimate, estimate
from effnet_cluster.effnet.naming import phi_name, scaled_name, variant
from effnet_cluster.effnet.stages import SHORTCUTS

SMALL = Grid((0.6, 1.0, 1.3, 1.7), (0.5, 1.0, 1.4, 2.2), (0.5, 1.0, 1.2, 1.6))
POINTS = list(product(SMALL.widths, SMALL.depths, SMALL.resolutions))
# All φ that a budget below can reach, every cost computed.
CURVE = {phi: estimate(variant(phi_name(phi)), 32) for phi in phis() if phi <= 5}
CORNERS = {point: estimate(variant(scaled_name("b0", *point)), 32) for point in POINTS}


def costs(prediction: TrainingEstimate) -> tuple[int, int, int, int]:
    cost, memory = prediction.cost, prediction.memory
    return cost.macs, cost.params, memory.total, memory.activations


def within(prediction: TrainingEstimate, macs: float, params: float, memory: float) -> bool:
    used = costs(prediction)
    return used[0] <= macs and used[1] <= params and used[2] <= memory


# From below B0 to within the curve above; with exact values of some models, where "at most" could turn into "less".
MACS = st.one_of(st.floats(1e8, 9e9), st.sampled_from([p.cost.macs for p in CURVE.values() if p.cost.macs < 9e9]))
PARAMS = st.one_of(st.just(math.inf), st.floats(2e6, 4e7), st.sampled_from([p.cost.params for p in CORNERS.values()]))
MEMORY = st.one_of(st.just(math.inf), st.floats(1e9, 6e10), st.sampled_from([costs(p)[2] for p in CORNERS.values()]))


@settings(max_examples=60, deadline=None)
@given(macs=MACS, params=PARAMS, memory=MEMORY)
def test_the_largest_phi_is_what_trying_all_finds(macs: float, params: float, memory: float) -> None:
    fitting = [phi for phi, prediction in CURVE.items() if within(prediction, macs, params, memory)]
    assert max(CURVE) not in fitting
    found = largest_phi(Budget(macs, memory, params))
    assert (found and found.config.name) == (phi_name(max(fitting)) if fitting else None)


@settings(max_examples=60, deadline=None)
@given(macs=MACS, params=PARAMS, memory=MEMORY)
def test_the_grid_gives_the_maximal_points_that_trying_all_finds(macs: float, params: float, memory: float) -> None:
    fitting = {point for point, prediction in CORNERS.items() if within(prediction, macs, params, memory)}
    maximal = {
        p for p in fitting if not any(q != p and all(b >= a for a, b in zip(p, q, strict=True)) for q in fitting)
    }
    found = largest_on_grid(Budget(macs, memory, params), SMALL)
    assert sorted(p.config.name for p in found) == sorted(scaled_name("b0", *point) for point in maximal)
    assert [p.cost.macs for p in found] == sorted((p.cost.macs for p in found), reverse=True)


def test_costs_never_fall_along_the_curve() -> None:
    for smaller, larger in zip(CURVE.values(), list(CURVE.values())[1:], strict=False):
        assert all(a <= b for a, b in zip(costs(smaller), costs(larger), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    base=st.tuples(st.floats(0.5, 2.5), st.floats(0.3, 3), st.floats(0.3, 3)),
    dimension=st.integers(0, 2),
    growth=st.floats(1, 1.5),
    batch=st.integers(1, 64),
    shortcut=st.sampled_from(SHORTCUTS),
)
def test_costs_never_fall_when_a_dimension_grows(
    base: tuple[float, float, float], dimension: int, growth: float, batch: int, shortcut: str
) -> None:
    grown = tuple(factor * growth if number == dimension else factor for number, factor in enumerate(base))
    smaller, larger = (
        estimate(variant(scaled_name("b0", *factors), shortcut=shortcut), batch) for factors in (base, grown)
    )
    assert all(a <= b for a, b in zip(costs(smaller), costs(larger), strict=True))


def test_a_larger_batch_needs_a_smaller_model() -> None:
    budget = Budget(memory=8 * 1024**3)
    depths = [found.config.depth for batch in (4, 16, 64) if (found := largest_phi(budget, batch)) is not None]
    assert len(depths) == 3
    assert depths == sorted(depths, reverse=True)
    assert len(set(depths)) == 3


def test_checkpointing_makes_room_for_a_larger_model() -> None:
    budget = Budget(memory=8 * 1024**3)
    plain, saving = (largest_phi(budget, 64, checkpoint_activations=saving) for saving in (False, True))
    assert plain is not None
    assert saving is not None
    assert saving.config.depth > plain.config.depth
    assert saving.memory.total <= budget.memory


def test_the_overrides_reach_the_models() -> None:
    found = largest_phi(Budget(params=4_100_000), num_classes=5, activation="prelu")
    assert found is not None
    assert (found.config.num_classes, found.config.activation) == (5, "prelu")
    assert largest_phi(Budget(params=4_100_000)) is None
    (of_grid, *_) = largest_on_grid(Budget(params=4_100_000), num_classes=5)
    assert of_grid.config.num_classes == 5


def test_nothing_that_fits_is_none_and_everything_the_last() -> None:
    assert largest_phi(Budget(macs=1)) is None
    assert largest_on_grid(Budget(macs=1), SMALL) == ()
    assert largest_of(["b0", "b1"], Budget(macs=1)) is None
    everything = largest_phi(Budget())
    assert everything is not None
    assert everything.config.name == "b8"
    assert [p.config.name for p in largest_on_grid(Budget(), SMALL)] == ["b0-w1.7-d2.2-r1.6"]


def test_a_grid_in_any_order_gives_the_same() -> None:
    shuffled = Grid((1.7, 0.6, 1.3, 1.0, 1.3), (2.2, 0.5, 1.4, 1.0), (1.6, 1.0, 0.5, 1.2))
    assert shuffled == SMALL
    expected = largest_on_grid(Budget(macs=1e9), SMALL)
    assert expected
    assert largest_on_grid(Budget(macs=1e9), shuffled) == expected


@pytest.mark.parametrize("factors", [(), (1.0, 0.0), (-1.0,), (math.nan,)])
def test_a_grid_of_nothing_or_of_no_factors_is_refused(factors: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^the grid's depths must be positive numbers, not \("):
        Grid(depths=factors)


def test_the_largest_of_some_is_the_one_that_computes_most() -> None:
    for macs, expected in ((0.39e9, "b0"), (1.0e9, "b2"), (5e9, "b4"), (math.inf, "b7")):
        found = largest_of([f"b{size}" for size in range(8)], Budget(macs))
        assert found is not None
        assert found.config.name == expected


def test_the_curve_leaves_out_the_published_names() -> None:
    tried = phis()
    assert list(tried) == sorted(set(tried))
    assert {float(n) for n in range(9)} - set(tried) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}
    assert len(tried) == 801 - 7
    for phi in tried:
        phi_name(phi)


def test_the_base_grid_is_what_trying_all_finds_and_holds_the_papers() -> None:
    steps = [1 + n * 0.05 for n in range(25)]
    expected = {
        (round(a, 2), round(b, 2), round(c, 2))
        for a, b, c in product(steps, repeat=3)
        if abs(a * b**2 * c**2 - 2) <= 0.1 + 1e-9
    }
    found = list(base_grid())
    assert set(found) == expected
    assert len(found) == len(expected)
    assert (1.2, 1.1, 1.15) in expected


@pytest.mark.parametrize("bound", [0, -1, math.nan])
@pytest.mark.parametrize("name", ["macs", "memory", "params"])
def test_a_bound_that_is_not_positive_is_refused(name: str, bound: Any) -> None:
    with pytest.raises(ValueError, match=f"the bound on {name} must be positive"):
        Budget(**{name: bound})
