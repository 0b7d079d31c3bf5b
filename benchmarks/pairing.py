"""Paired timing: contestants take turns within a round, so that whatever slows the machine slows all of them."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Progress = Callable[[int, int, str], None]
"""Told how much is done, of how much, and what is being done."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another one is: the median over the rounds, the quartiles, and how many rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    *,
    budget_s: float = math.inf,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, list[float]]:
    """Call every contestant once per round and return its seconds by round.

    Each round starts with another contestant: what follows a slow one finds other caches than what leads.

    Args:
        contestants: what is timed, by name; a call returns when its work is done.
        rounds: measured rounds, at most.
        warmup: rounds before them.
        budget_s: seconds after which no further round begins; there is always a measured one.
        progress: called before every call with the calls done, their greatest number, and the contestant's name.

    Raises:
        ValueError: there is nothing to measure.
    """
    if not contestants or rounds < 1:
        raise ValueError("a measurement needs a contestant and a round")
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    began, done = time.perf_counter(), 0
    for number in range(-warmup, rounds):
        if number > 0 and time.perf_counter() - began >= budget_s:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            progress(done, (warmup + rounds) * len(names), name)
            started = time.perf_counter()
            contestants[name]()
            elapsed = time.perf_counter() - started
            done += 1
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def ratio(seconds: Sequence[float], others: Sequence[float]) -> Ratio:
    """How many times as fast the first is: ``others`` over ``seconds``, paired by round.

    Raises:
        ValueError: they have not the same number of rounds, or none.
    """
    values = [other / own for own, other in zip(seconds, others, strict=True)]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(median, low, high, len(values))


def rate(units: float, seconds: Sequence[float]) -> float:
    """Units per second in the median round."""
    return units / statistics.median(seconds)
