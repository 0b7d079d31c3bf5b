"""A sweep played through before it is run: the order of `packing` on predicted times, without Ray or a clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .packing import Demand, Node, Placement, Running, Turn, next_to_start, place


@dataclass(frozen=True)
class Span:
    """A trial's time in a simulated sweep, in seconds since the sweep's start."""

    demand: Demand
    placement: Placement
    start: float
    end: float


@dataclass(frozen=True)
class Schedule:
    """A simulated sweep. `turns` says when a trial was first in line and did not fit, and what ran then, by its id."""

    spans: tuple[Span, ...]
    turns: Mapping[str, tuple[float, frozenset[str]]]

    @property
    def makespan(self) -> float:
        """Seconds from the first start to the last end."""
        return max((span.end for span in self.spans), default=0.0)

    def critical_path(self) -> list[Span]:
        """The chain of trials that ends last, each of which started when the one before it ended."""
        chain = [max(self.spans, key=lambda span: span.end)] if self.spans else []
        while chain and chain[0].start > 0:
            ended = [span for span in self.spans if span.end == chain[0].start]
            chain.insert(0, max(ended, key=lambda span: span.end - span.start))
        return chain


def simulate(
    demands: Sequence[Demand],
    nodes: Sequence[Node],
    most: int | None = None,
    actual: Callable[[Demand], float] = lambda demand: demand.seconds,
) -> Schedule:
    """Play a sweep through. Trials that never fit are left out.

    Args:
        demands: of all trials.
        nodes: of the cluster, which nothing else uses.
        most: how many trials may run at a time.
        actual: seconds that a trial really takes; the decisions know the predicted ones only.
    """
    waiting = {demand.trial_id: demand for demand in demands}
    running: dict[str, Running] = {}
    ends: list[tuple[float, str]] = []
    spans: list[Span] = []
    turns: dict[str, tuple[float, frozenset[str]]] = {}
    now, turn = 0.0, None
    while True:
        turn = _start_all(now, waiting, running, nodes, most, actual, ends, spans, turn)
        if turn is not None:
            turns.setdefault(turn.trial_id, (now, turn.before))
        if not ends:
            return Schedule(tuple(spans), turns)
        now = ends[0][0]
        while ends and ends[0][0] <= now:
            del running[heapq.heappop(ends)[1]]


def _start_all(
    now: float,
    waiting: dict[str, Demand],
    running: dict[str, Running],
    nodes: Sequence[Node],
    most: int | None,
    actual: Callable[[Demand], float],
    ends: list[tuple[float, str]],
    spans: list[Span],
    turn: Turn | None,
) -> Turn | None:
    """Start what can start now; returns whose turn it is then."""
    while waiting:
        start, turn = next_to_start(waiting.values(), running.values(), nodes, turn, most)
        if start is None:
            return turn
        demand, placement = start
        del waiting[demand.trial_id]
        running[demand.trial_id] = Running(demand, placement, now + demand.seconds)
        end = now + actual(demand)
        heapq.heappush(ends, (end, demand.trial_id))
        spans.append(Span(demand, placement, now, end))
    return None


def lower_bound(demands: Sequence[Demand], nodes: Sequence[Node]) -> float:
    """Seconds that no order of these trials can go below.

    The longest trial; the work by what fits at once, counted in workers of so many cores, as a node's odd cores help
    nobody; and the same for wide trials, of which only so many fit beside each other: a trial of width x (1 is the
    whole cluster) counts ⌊(k+1)x⌋/k for each k, or x where (k+1)x is whole (a dual feasible function, Fekete and
    Schepers 2001).
    """
    fitting = [demand for demand in demands if place(demand, nodes) is not None]
    bound = max((demand.seconds for demand in fitting), default=0.0)
    for cpus, gpus in {(demand.cpus, demand.gpus) for demand in fitting}:
        slots = sum(min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus) for node in nodes)
        weights: dict[int, float] = {}
        for demand in fitting:
            if demand.cpus >= cpus and demand.gpus >= gpus:
                weights[demand.workers] = weights.get(demand.workers, 0.0) + demand.seconds
        bound = max(bound, sum(seconds * width / slots for width, seconds in weights.items()))
        for k in range(1, slots):
            counted = 0.0
            for width, seconds in weights.items():
                whole, rest = divmod((k + 1) * width, slots)
                counted += seconds * (whole / k if rest else width / slots)
            bound = max(bound, counted)
    return bound
