"""What Tune's schedulers decide about trials that report shares of their steps, and the reasons that we give for it."""

from __future__ import annotations

import copy
import pickle
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from effnet_cluster.orchestration.running.schedulers import (
    PERCENT,
    Point,
    ReasonedScheduler,
    make_scheduler,
    reason,
    rungs,
    value_at,
)
from effnet_cluster.orchestration.running.sweep import _Names, _NextTrials
from effnet_cluster.orchestration.running.trial import CANCELLED
from effnet_cluster.orchestration.scheduling import Scheduling, starting_order
from effnet_cluster.orchestration.training.metrics import TOP1


class NamedTrial:
    """A trial as schedulers see it."""

    def __init__(self, name: str, status: str = "RUNNING") -> None:
        self.trial_id, self.status = f"id-{name}", status
        self._name = name

    def __str__(self) -> str:
        return self._name


Stops = dict[str, str]


class Everywhere:
    """Room for all, unless the test says otherwise."""

    def __init__(self) -> None:
        self.wanted, self.free, self.gave_way = False, True, list[str]()
        self.stops: Stops = {}

    def stopped(self, name: str, reason: str) -> None:
        assert name not in self.stops
        self.stops[name] = reason

    def gives_way(self, name: str) -> None:
        self.gave_way.append(name)

    def go_on(self, name: str) -> bool:
        return self.free


def reasoned(scheduling: Scheduling, room: Everywhere | None = None) -> tuple[ReasonedScheduler, Stops]:
    room = room or Everywhere()
    return ReasonedScheduler(scheduling, make_scheduler(scheduling, {}), room), room.stops


def run_curve(scheduler: ReasonedScheduler, name: str, curve: list[Point]) -> int:
    """Report a trial's curve until it is stopped; returns how many points were reported."""
    trial: Any = NamedTrial(name)
    scheduler.on_trial_add(None, trial)
    for number, point in enumerate(curve):
        result = {PERCENT: point.percent, TOP1: point.top1}
        if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            return number + 1
    scheduler.on_trial_complete(None, trial, {PERCENT: curve[-1].percent, TOP1: curve[-1].top1})
    return len(curve)


def curve_of(final: float, epochs: int) -> list[Point]:
    return [Point(100 * epoch / epochs, final * epoch / epochs) for epoch in range(1, epochs + 1)]


finals = st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 30)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(trials=finals, reduction=st.integers(2, 4), share=st.floats(0.02, 0.9))
def test_asha_stops_whom_the_threshold_of_its_reason_excludes_and_nobody_else(
    trials: list[tuple[float, int]], reduction: int, share: float
) -> None:
    scheduling = Scheduling(name="asha", reduction=reduction, min_share=share)
    scheduler, stops = reasoned(scheduling)
    reported: dict[str, list[Point]] = {}
    for number, (final, epochs) in enumerate(trials):
        name = f"t{number}"
        curve = curve_of(final, epochs)
        count = run_curve(scheduler, name, curve)
        passed: set[float] = set()
        for index, point in enumerate(curve[:count]):
            # By the rule itself: at a rung that it reaches first here, only the best share of the others goes on.
            reached = [rung for rung in rungs(scheduling) if rung <= point.percent]
            fresh = bool(reached) and reached[-1] not in passed
            passed |= set(reached[-1:])
            at = reached[-1] if reached else 0.0
            # A trial of few epochs may jump over a rung; it is no value there.
            others = [own for other, c in reported.items() if (own := first_value(c, at, scheduling)) is not None]
            needed = np.percentile(others, 100 * (1 - 1 / reduction)) if others else -1.0
            should_stop = fresh and point.percent < 100 and point.top1 < needed
            stopped = index == count - 1 and name in stops
            assert stopped == should_stop, (point, others, needed)
        reported[name] = curve[:count]
        if name in stops:
            assert re.fullmatch(r"asha: at rung \d+ of \d+, \d+% of its steps its top-1 of .*", stops[name])


def first_value(curve: list[Point], rung: float, scheduling: Scheduling) -> float | None:
    """What a trial is recorded with at a rung: the first report whose highest rung this is."""
    for point in curve:
        reached = [other for other in rungs(scheduling) if other <= point.percent]
        if reached and reached[-1] == rung:
            return point.top1
    return None


def test_the_reason_names_rung_rank_and_threshold() -> None:
    scheduling = Scheduling(name="asha", min_share=0.1, reduction=3)
    curves = {
        "a": [Point(10, 0.5), Point(30, 0.6)],
        "b": [Point(20, 0.7), Point(40, 0.9)],
        "c": [Point(10, 0.2), Point(35, 0.3)],
        "d": [Point(10, 0.1)],
    }
    assert reason(scheduling, curves, "c") == (
        "asha: at rung 2 of 3, 30% of its steps its top-1 of 0.3000 was rank 3 of 3; to go on it took 0.8000"
    )
    assert "rank 4 of 4" in reason(scheduling, curves, "d")
    median = reason(Scheduling(name="median"), curves, "c")
    assert median.startswith("median: at 35% of its steps its top-1 of 0.3000 was rank 2 of 2; ")
    assert median.endswith("the median of the others' means was 0.5500")


def test_nobody_is_stopped_when_only_the_model_is_left_to_log() -> None:
    for name in ("none", "asha", "median", "hyperband"):
        room = Everywhere()
        scheduler, stops = reasoned(Scheduling(name=name), room)  # type: ignore[arg-type]
        for number in range(6):
            trial: Any = NamedTrial(f"t{number}")
            scheduler.on_trial_add(None, trial)
            assert scheduler.on_trial_result(None, trial, {PERCENT: 100.0, TOP1: 1 - number / 10}) == "CONTINUE"
        assert stops == {}
        assert room.gave_way == [f"t{number}" for number in range(6)], "the next trial can start"


@pytest.mark.parametrize("name", ["asha", "median"])
def test_what_an_earlier_job_reported_counts_as_if_it_had_been_this_one(name: Any) -> None:
    curves = {f"t{number}": curve_of(final, 10) for number, final in enumerate((0.5, 0.9, 0.8, 0.2, 0.95, 0.4, 0.7))}
    whole, whole_stops = reasoned(Scheduling(name=name))
    counts = {key: run_curve(whole, key, curve) for key, curve in curves.items()}
    assert 0 < len(whole_stops) < len(curves)
    for cut in range(1, len(curves)):
        first, _ = reasoned(Scheduling(name=name))
        early = {key: curves[key][: run_curve(first, key, curves[key])] for key in list(curves)[:cut]}
        second, stops = reasoned(Scheduling(name=name))
        second.replay(early)
        later = {key: run_curve(second, key, curves[key]) for key in list(curves)[cut:]}
        assert later == {key: counts[key] for key in later}
        assert stops == {key: why for key, why in whole_stops.items() if key in later}


def test_a_paused_trial_goes_on_only_where_there_is_room() -> None:
    class Controller:
        def get_trials(self) -> list[Any]:
            return [paused]

    paused, room = NamedTrial("p", "PAUSED"), Everywhere()
    room.free = False
    scheduler, _ = reasoned(Scheduling(), room)
    assert scheduler.choose_trial_to_run(Controller()) is None
    room.free = True
    assert scheduler.choose_trial_to_run(Controller()) is paused


def test_the_value_at_a_share_is_that_of_the_first_report_from_there_on() -> None:
    curve = [Point(10, 0.1), Point(20, 0.2), Point(50, 0.5)]
    assert [value_at(curve, percent) for percent in (0, 10, 10.1, 50, 51)] == [0.1, 0.1, 0.2, 0.5, None]


@pytest.mark.parametrize("name", ["none", "asha", "hyperband", "median"])
def test_a_trial_that_the_user_ends_before_its_first_report_holds_up_nobody(name: Any) -> None:
    scheduler, stops = reasoned(Scheduling(name=name))
    trials: list[Any] = [NamedTrial("first"), NamedTrial("second")]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    scheduler.on_trial_complete(None, trials[0], {CANCELLED: True})
    if name == "hyperband":
        assert trials[0] not in scheduler._inner._trial_info[trials[0]][0]._live_trials
    scheduler.on_trial_complete(None, trials[1], {PERCENT: 100.0, TOP1: 0.5})
    assert stops == {}


@pytest.mark.parametrize(
    ("result", "outcome"),
    [({CANCELLED: True, TOP1: 0.5}, "cancelled"), ({TOP1: 0.5}, "completed"), (None, "completed")],
)
def test_a_source_is_told_that_the_user_ended_a_trial(result: dict[str, Any] | None, outcome: str) -> None:
    told: list[tuple[str, str]] = []
    source: Any = SimpleNamespace(ended=lambda name, outcome, values: told.append((name, outcome)))
    line: Any = SimpleNamespace(ended=lambda name: None)
    next_trials = _NextTrials(source, line, SimpleNamespace())  # type: ignore[arg-type]
    next_trials._started["id"] = SimpleNamespace(trial_id="b0")  # type: ignore[assignment]
    next_trials.on_trial_complete("id", result)
    assert told == [("b0", outcome)]


def test_trials_that_are_compared_do_not_start_in_a_grids_order() -> None:
    """In which each may be better than those before it, so that asha would stop none."""
    grid: list[Any] = [SimpleNamespace(trial_id=f"digits-b0-silu-lr{lr / 1000}-s0") for lr in range(1, 33)]
    assert starting_order(grid, Scheduling()) == grid
    mixed = starting_order(grid, Scheduling(name="asha"))
    assert sorted(mixed, key=grid.index) == grid
    assert mixed == starting_order(reversed(grid), Scheduling(name="asha"))
    best, records = -1, 0
    for trial in mixed:
        if grid.index(trial) > best:
            best, records = grid.index(trial), records + 1
    assert records < len(grid) / 3


def test_what_names_tunes_trials_is_small_wherever_tune_writes_it_down() -> None:
    """Tune does so with each trial: a plan of 1,000 trials made a state of 2 GB."""
    plan: Any = SimpleNamespace(trial_of=lambda config: SimpleNamespace(trial_id=config["lr"]), big=bytes(10**6))
    names = _Names(plan)
    assert len(pickle.dumps(names)) < 200
    trial = SimpleNamespace(config={"lr": "named"})
    assert names(trial) == copy.deepcopy(names)(trial) == "named"
