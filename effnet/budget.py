"""Equation 2 of the paper: the largest models whose compute, memory and parameters stay within a budget.

The paper maximises accuracy, which only training tells. What is solved here is what it does with the answer: how far a
scaling can go. It rests on every cost growing, or staying, with each of width, depth and resolution.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from .memory import TrainingEstimate, estimate
from .naming import MAX_PHI, phi_name, scaled_name, variant
from .scaling import compound_scaling

_PHI_STEPS = 100
"""Steps of φ between two whole numbers."""


@dataclass(frozen=True)
class Budget:
    """Upper bounds, themselves allowed; infinity for none.

    Attributes:
        macs: multiply-accumulates of the forward pass of one image.
        memory: bytes at the peak of a training step, see ``TrainingMemory``.
        params: learned parameters.

    Raises:
        ValueError: a bound is not positive.
    """

    macs: float = math.inf
    memory: float = math.inf
    params: float = math.inf

    def __post_init__(self) -> None:
        for name in ("macs", "memory", "params"):
            if not getattr(self, name) > 0:
                raise ValueError(f"the bound on {name} must be positive, not {getattr(self, name)!r}")

    def holds(self, prediction: TrainingEstimate) -> bool:
        """Whether the model fits."""
        cost, memory = prediction.cost, prediction.memory
        return cost.macs <= self.macs and memory.total <= self.memory and cost.params <= self.params


@dataclass(frozen=True)
class Grid:
    """Factors of width, depth and resolution; they are put in ascending order, each once.

    Raises:
        ValueError: a dimension has no factor, or one that is not positive.
    """

    widths: tuple[float, ...] = tuple(round(1 + 0.1 * step, 1) for step in range(15))
    depths: tuple[float, ...] = tuple(round(1 + 0.2 * step, 1) for step in range(15))
    resolutions: tuple[float, ...] = tuple(round(1 + 0.1 * step, 1) for step in range(21))

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "resolutions"):
            factors = getattr(self, name)
            if not factors or not all(factor > 0 for factor in factors):
                raise ValueError(f"the grid's {name} must be positive numbers, not {factors!r}")
            object.__setattr__(self, name, tuple(sorted(set(factors))))


def phis() -> tuple[float, ...]:
    """Return the φ that the solver tries: two decimals, from 0 to ``MAX_PHI``.

    Without 1 to 7: those names are the published models', which are not on the curve (B3 is smaller than ``b2.99``).
    """
    steps = (step / _PHI_STEPS for step in range(MAX_PHI * _PHI_STEPS + 1))
    return tuple(phi for phi in steps if not 1 <= phi <= 7 or phi % 1)


def largest_phi(
    budget: Budget, batch: int = 32, *, checkpoint_activations: bool = False, **overrides: Any
) -> TrainingEstimate | None:
    """Return the model with the largest φ of ``phis()`` that fits; None if not even B0 does.

    Args:
        budget: what it must fit in.
        batch: images of one device at a time.
        checkpoint_activations: whether it will be trained so, see ``EfficientNet``.
        overrides: as in ``variant``, such as ``num_classes``.

    Raises:
        ValueError: the batch is not positive, or as ``variant``.
    """

    def at(phi: float) -> TrainingEstimate:
        config = variant(phi_name(phi), **overrides)
        return estimate(config, batch, checkpoint_activations=checkpoint_activations)

    candidates = phis()
    index = _count_fitting(candidates, lambda phi: budget.holds(at(phi))) - 1
    return at(candidates[index]) if index >= 0 else None


def largest_of(
    names: Sequence[str], budget: Budget, batch: int = 32, *, checkpoint_activations: bool = False, **overrides: Any
) -> TrainingEstimate | None:
    """Return the fitting model with the most multiply-accumulates among ``names``; None if none fits."""
    configs = (variant(name, **overrides) for name in names)
    found = [estimate(config, batch, checkpoint_activations=checkpoint_activations) for config in configs]
    return max(filter(budget.holds, found), key=lambda prediction: prediction.cost.macs, default=None)


def largest_on_grid(
    budget: Budget,
    grid: Grid | None = None,
    batch: int = 32,
    base: str = "b0",
    *,
    checkpoint_activations: bool = False,
    **overrides: Any,
) -> tuple[TrainingEstimate, ...]:
    """Return the maximal models of a grid: they fit, and no other that fits is at least as large in all three factors.

    Every other point that fits is in no dimension larger than one of them, so they say it all. The most
    multiply-accumulates come first.

    Raises:
        ValueError: as ``largest_phi``.
    """
    grid = grid or Grid()

    def at(width: float, depth: float, resolution: float) -> TrainingEstimate:
        config = variant(scaled_name(base, width, depth, resolution), **overrides)
        return estimate(config, batch, checkpoint_activations=checkpoint_activations)

    def fitting(candidates: Sequence[float], width: float, depth: float) -> int:
        return _count_fitting(candidates, lambda resolution: budget.holds(at(width, depth, resolution)))

    corners: list[tuple[float, float, float]] = []
    # How many resolutions fit at each depth: no more than did at the width and the depth before.
    counts = dict.fromkeys(grid.depths, len(grid.resolutions))
    for width in grid.widths:
        count = len(grid.resolutions)
        for depth in grid.depths:
            candidates = grid.resolutions[: min(count, counts[depth])]
            count = counts[depth] = fitting(candidates, width, depth)
            if count:
                corners.append((width, depth, candidates[count - 1]))
    maximal = [point for point in corners if not any(_dominates(other, point) for other in corners)]
    return tuple(sorted((at(*point) for point in maximal), key=lambda prediction: -prediction.cost.macs))


def base_grid(step: float = 0.05, flops: float = 2.0, tolerance: float = 0.1) -> Iterator[tuple[float, float, float]]:
    """Yield the (α, β, γ) of a grid, all at least 1, with α * β² * γ² within ``tolerance`` of ``flops``.

    The search of the paper's section 3.3, step 1, over depth, width and resolution of φ = 1. Its best was
    (1.2, 1.1, 1.15), whose product is 1.92.
    """
    values = [round(1 + step * number, 4) for number in range(int((flops + tolerance - 1) / step + 1e-9) + 1)]
    for alpha, beta, gamma in product(values, repeat=3):
        if abs(compound_scaling(1, alpha, beta, gamma).flops - flops) <= tolerance + 1e-9:
            yield alpha, beta, gamma


def _count_fitting(candidates: Sequence[float], fits: Callable[[float], bool]) -> int:
    """How many of the ascending ``candidates`` fit, where none does after the first that does not."""
    return bisect_right(candidates, 0, key=lambda candidate: 0 if fits(candidate) else 1)


def _dominates(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))
