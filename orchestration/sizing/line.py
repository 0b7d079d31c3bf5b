"""The line of a running sweep: what `packing` decides, with what it has to remember between two decisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..training.job import TrialPlan
from .allocation import Shares
from .packing import Demand, Node, Running, Turn, next_to_start

# Seconds between two questions for the nodes.
_ASK_S = 10.0


class Line:
    """Says which trial of a sweep starts now. Used from one thread.

    Args:
        shares: what each trial gets.
        nodes: asks for the cluster's nodes, which come and go; None: those of `shares`, for ever.
        clock: the time in seconds.
    """

    def __init__(
        self,
        shares: Shares,
        nodes: Callable[[], Sequence[Node]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shares, self._clock = shares, clock
        self._ask, self._nodes, self._asked = nodes, shares.nodes, clock()
        self._demands: dict[str, Demand] = {}
        self._running: dict[str, Running] = {}
        self._waiting: tuple[Demand, ...] = ()
        self._turn: Turn | None = None

    def next(self, waiting: Sequence[TrialPlan]) -> TrialPlan | None:
        """The one that starts now, which counts as running from then on; None: there is no room, or nothing waits."""
        self._waiting = tuple(map(self._demand, waiting))
        name = self._start(self._waiting) if waiting else None
        return next((trial for trial in waiting if trial.trial_id == name), None)

    def go_on(self, trial: TrialPlan) -> bool:
        """Whether a trial that has left its place, to go on later, does so now; it counts as running from then on.

        It does not take the place of a trial that waits and comes before it.
        """
        return self._start((*self._waiting, self._demand(trial)), only=trial.trial_id) is not None

    def _start(self, demands: Sequence[Demand], only: str | None = None) -> str | None:
        if self._ask is not None and self._clock() - self._asked > _ASK_S:
            self._nodes, self._asked = tuple(self._ask()), self._clock()
        start, turn = next_to_start(
            demands, self._running.values(), self._nodes, self._turn, self._shares.execution.max_concurrent
        )
        if turn is None or turn.trial_id != only:
            self._turn = turn
        if start is None or only not in (None, start.demand.trial_id):
            return None
        name = start.demand.trial_id
        self._waiting = tuple(demand for demand in self._waiting if demand.trial_id != name)
        self._running[name] = Running(start.demand, start.placement, self._clock() + start.demand.seconds)
        self._waiting = tuple(demand for demand in self._waiting if demand.trial_id != name)
        return name

    def ended(self, trial_id: str) -> None:
        """Note that a trial has left its place; again changes nothing."""
        self._running.pop(trial_id, None)

    def _demand(self, trial: TrialPlan) -> Demand:
        if trial.trial_id not in self._demands:
            self._demands[trial.trial_id] = self._shares.demand_of(trial)
        return self._demands[trial.trial_id]
