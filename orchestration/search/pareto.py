"""The Pareto front: what no other point is better than in every objective."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[Sequence[float]], maximized: Sequence[bool]) -> list[bool]:
    """Whether each point is on the front: no other is at least as good in all objectives and better in one.

    Args:
        points: the objectives of each.
        maximized: of which objectives more is better.
    """
    costs = [tuple(-value if more else value for value, more in zip(point, maximized, strict=True)) for point in points]
    # In this order a point can only be dominated by one before it.
    kept: list[tuple[float, ...]] = []
    for cost in sorted(set(costs)):
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other in kept):
            kept.append(cost)
    best = set(kept)
    return [cost in best for cost in costs]
