"""Which trial starts now: nothing exceeds a node, nobody starves, and the simulated sweep is near the lower bound."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cluster.orchestration.sizing.packing import Demand, Node, Running, Turn, next_to_start, place
from effnet_cluster.orchestration.sizing.simulation import Schedule, lower_bound, simulate

GIB = 2**30


def cluster(*cpus: int, gpus: int = 0, memory: int = 1024 * GIB) -> list[Node]:
    return [Node(f"n{number}", f"10.0.0.{number}", each, gpus, memory) for number, each in enumerate(cpus)]


def trial(name: str, workers: int, seconds: float = 1.0, cpus: int = 1) -> Demand:
    return Demand(name, workers, cpus, seconds=seconds)


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[Demand], list[Node], int | None]:
    """Any demands on any cluster: unequal nodes, GPUs or none, memory that is short, trials that never fit."""
    with_gpus = draw(st.booleans())
    size = st.tuples(st.integers(0, 12), st.integers(0, 4) if with_gpus else st.just(0), st.integers(0, 12))
    sizes = draw(st.lists(size, min_size=1, max_size=4))
    nodes = [Node(f"n{n}", f"10.0.0.{n}", cpus, gpus, memory) for n, (cpus, gpus, memory) in enumerate(sizes)]
    one = st.tuples(
        st.integers(1, 8), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2), st.floats(0.125, 100.0, width=32)
    )
    demands = [
        Demand(f"t{n}", workers, cpus, int(with_gpus), memory, own, seconds)
        for n, (workers, cpus, memory, own, seconds) in enumerate(draw(st.lists(one, max_size=20)))
    ]
    return demands, nodes, draw(st.none() | st.integers(1, 4))


def check(schedule: Schedule, demands: Sequence[Demand], nodes: Sequence[Node], most: int | None) -> None:
    """Every trial that fits at all runs once, as a whole, and at no time more than a node has is in use."""
    assert sorted(span.demand.trial_id for span in schedule.spans) == sorted(
        demand.trial_id for demand in demands if place(demand, nodes) is not None
    )
    for span in schedule.spans:
        assert sum(span.placement.workers.values()) == span.demand.workers
    for moment in {span.start for span in schedule.spans}:
        alive = [span for span in schedule.spans if span.start <= moment < span.end]
        assert len(alive) <= (most or len(alive))
        for node in nodes:
            here = [(span.demand, span.placement.workers.get(node.id, 0)) for span in alive]
            own = sum(span.demand.own_memory for span in alive if span.placement.host == node.id)
            assert sum(demand.cpus * count for demand, count in here) <= node.cpus
            assert sum(demand.gpus * count for demand, count in here) <= node.gpus
            assert sum(demand.memory * count for demand, count in here) + own <= node.memory


@given(sweeps())
def test_every_trial_that_fits_runs_once_and_nothing_exceeds_a_node(
    sweep: tuple[list[Demand], list[Node], int | None],
) -> None:
    demands, nodes, most = sweep
    schedule = simulate(demands, nodes, most)
    check(schedule, demands, nodes, most)
    assert schedule.makespan >= lower_bound(demands, nodes) * (1 - 1e-9)


@given(sweeps(), st.randoms(use_true_random=False))
def test_a_trial_waits_at_most_for_what_ran_when_its_turn_came_however_wrong_the_predictions(
    sweep: tuple[list[Demand], list[Node], int | None], chance: random.Random
) -> None:
    demands, nodes, most = sweep
    factors = {demand.trial_id: chance.choice((0.1, 0.5, 1.0, 2.0, 20.0)) for demand in demands}
    schedule = simulate(demands, nodes, most, lambda demand: demand.seconds * factors[demand.trial_id])
    check(schedule, demands, nodes, most)
    spans = {span.demand.trial_id: span for span in schedule.spans}
    for name, (came, before) in schedule.turns.items():
        assert spans[name].start <= max((spans[other].end for other in before), default=came)


def waits(
    demands: Sequence[Demand], nodes: Sequence[Node], most: int | None, took: dict[str, float], at_once: int
) -> dict[str, tuple[float, float]]:
    """When each trial that had a turn started, and when the last that ran at its turn had ended.

    The trials come few at a time, as those of a search do: narrow ones may run when a wide one's turn comes.
    """
    coming, waiting = list(demands), list[Demand]()
    running: dict[str, Running] = {}
    ends: dict[str, float] = {}
    turns: dict[str, Turn] = {}
    starts: dict[str, float] = {}
    now, turn = 0.0, None
    while True:
        waiting, coming = [*waiting, *coming[:at_once]], coming[at_once:]
        while waiting:
            start, turn = next_to_start(waiting, running.values(), nodes, turn, most)
            if turn is not None:
                turns.setdefault(turn.trial_id, turn)
            if start is None:
                break
            name = start.demand.trial_id
            waiting.remove(start.demand)
            running[name] = Running(start.demand, start.placement, now + start.demand.seconds)
            starts[name], ends[name] = now, now + took[name]
        if not running and not coming:
            break
        if running:
            ended = min(running, key=lambda name: ends[name])
            now = ends[ended]
            del running[ended]
    return {name: (starts[name], max((ends[other] for other in turns[name].before), default=now)) for name in turns}


@given(sweeps(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_trial_that_comes_when_narrow_ones_run_waits_for_those_alone(
    sweep: tuple[list[Demand], list[Node], int | None], at_once: int, chance: random.Random
) -> None:
    demands, nodes, most = sweep
    took = {demand.trial_id: demand.seconds * chance.choice((0.1, 1.0, 5.0)) for demand in demands}
    for started, ended in waits(demands, nodes, most, took, at_once).values():
        assert started <= ended


@pytest.mark.parametrize("seed", range(20))
def test_a_wide_trial_waits_for_no_trial_that_has_started_after_its_turn(seed: int) -> None:
    chance = random.Random(seed)
    nodes = cluster(*(chance.randint(2, 8) for _ in range(2)))
    demands = [trial(f"t{n}", chance.choice((1, 1, 1, 4)), chance.uniform(1, 9)) for n in range(30)]
    took = {demand.trial_id: demand.seconds * chance.choice((0.1, 1.0, 5.0)) for demand in demands}
    for started, ended in waits(demands, nodes, None, took, 2).values():
        assert started <= ended


def test_a_wide_trial_is_not_starved_by_a_stream_of_small_ones() -> None:
    """Without a place kept for it, one of the small ones would always be running."""
    demands = [trial("big", 4, 5.0), *(trial(f"small{number}", 1, 6.0) for number in range(2))]
    nodes = cluster(4)
    running: list[Running] = []
    turn: Turn | None = None
    started = []
    for now in range(100):
        running = [one for one in running if one.ends > now]
        waiting = [demand for demand in demands if demand.trial_id not in started]
        if now:
            waiting.append(trial(f"more{now}", 1, 30.0))  # longer than the big one: each would be before it in line
        while True:
            start, turn = next_to_start(waiting, running, nodes, turn)
            if start is None:
                break
            started.append(start.demand.trial_id)
            waiting.remove(start.demand)
            running.append(Running(start.demand, start.placement, now + start.demand.seconds))
        if "big" in started:
            break
    assert "big" in started[:4]


def test_others_start_beside_the_place_that_is_kept_and_not_in_it() -> None:
    nodes = cluster(4, 4)
    running = [Running(old, p, 9.0) for old in [trial("old", 3, 9.0)] if (p := place(old, nodes))]
    # Six of eight slots are kept for the wide one: two are left, of which the running trial will free none to others.
    line = [trial("wide", 6, 50.0), trial("two", 2, 3.0), trial("three", 3, 4.0)]
    start, turn = next_to_start(line, running, nodes)
    assert start is not None
    assert start.demand.trial_id == "two"
    assert turn is not None
    assert (turn.trial_id, turn.before) == ("wide", frozenset({"old"}))
    running.append(Running(start.demand, start.placement, 3.0))
    assert next_to_start([line[0], line[2]], running, nodes, turn) == (None, turn)
    # Two has ended and old has not: three would still take the place of the wide one.
    assert next_to_start([line[0], line[2]], running[:1], nodes, turn) == (None, turn)
    start, after = next_to_start([line[0], line[2]], [], nodes, turn)
    assert start is not None
    assert (start.demand.trial_id, after) == ("wide", None)


def test_a_place_on_a_node_that_is_gone_is_kept_elsewhere() -> None:
    nodes = cluster(4, 4)
    olds = zip((trial("a", 3), trial("b", 3)), nodes, strict=True)
    placed = [(demand, place(demand, [node])) for demand, node in olds]
    running = [Running(demand, where, 9.0) for demand, where in placed if where]
    wide = trial("wide", 4, 50.0)
    _, turn = next_to_start([wide], running, nodes)
    assert turn is not None
    (kept,) = turn.placement.workers
    left = [node for node in nodes if node.id != kept]
    _, moved = next_to_start([wide], running, left, turn)
    assert moved is not None
    assert [*moved.placement.workers] == [left[0].id]
    start, _ = next_to_start([wide], [], left, moved)
    assert start is not None
    assert start.demand is wide


def optimum(demands: Sequence[Demand], slots: int) -> float:
    """The least makespan: of every order, each trial as early as it fits. One of the orders is optimal."""
    best = float("inf")
    for order in itertools.permutations(demands):
        spans: list[tuple[float, float, int]] = []
        for demand in order:
            for start in sorted({0.0, *(end for _, end, _ in spans)}):
                end = start + demand.seconds
                moments = [start, *(begin for begin, _, _ in spans if start < begin < end)]
                used = (sum(w for begin, stop, w in spans if begin <= at < stop) for at in moments)
                if all(taken + demand.workers <= slots for taken in used):
                    spans.append((start, end, demand.workers))
                    break
        best = min(best, max(end for _, end, _ in spans))
    return best


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=5))
def test_the_lower_bound_is_one_and_the_simulated_sweep_is_at_most_twice_the_optimum(
    slots: int, sizes: list[tuple[int, int]]
) -> None:
    demands = [trial(f"t{n}", min(workers, slots), float(seconds)) for n, (workers, seconds) in enumerate(sizes)]
    least = optimum(demands, slots)
    assert lower_bound(demands, cluster(slots)) <= least + 1e-9
    assert least - 1e-9 <= simulate(demands, cluster(slots)).makespan <= 2 * least + 1e-9


@given(
    st.lists(st.integers(1, 16), min_size=1, max_size=4),
    st.lists(st.floats(0.125, 100.0, width=32), min_size=1, max_size=80),
)
def test_trials_of_one_worker_end_within_the_longest_of_the_evenly_shared_work(
    cpus: list[int], seconds: list[float]
) -> None:
    """Graham's bound: so within 1.15 of the lower bound wherever no trial takes over 15% of the shared work."""
    demands = [trial(f"t{number}", 1, each) for number, each in enumerate(seconds)]
    shared, longest = sum(seconds) / sum(cpus), max(seconds)
    makespan = simulate(demands, cluster(*cpus)).makespan
    assert makespan <= (shared + (1 - 1 / sum(cpus)) * longest) * (1 + 1e-6)
    if longest <= 0.15 * shared:
        assert makespan <= 1.15 * lower_bound(demands, cluster(*cpus)) * (1 + 1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from((8, 16)), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from((1, 2, 4, 8)), st.floats(1.0, 10.0, width=32)), min_size=1, max_size=20),
)
def test_widths_that_fill_the_slots_end_within_115_percent_where_no_trial_is_long_against_the_sweep(
    cpus: list[int], sizes: list[tuple[int, float]]
) -> None:
    demands = [trial(f"t{n}", workers, seconds) for n, (workers, seconds) in enumerate(sizes)]
    nodes = cluster(*cpus)
    shared = sum(demand.seconds * demand.workers for demand in demands) / sum(cpus)
    # Repeated until the longest is short: 5% of the sweep.
    times = int(max(demand.seconds for demand in demands) * 20 / shared) + 1
    many = [replace(demand, trial_id=f"{demand.trial_id}-{time}") for demand in demands for time in range(times)]
    assert simulate(many, nodes).makespan <= 1.15 * lower_bound(many, nodes)


def test_random_sweeps_of_any_width_end_within_115_percent_of_what_fits_at_once() -> None:
    """Not for every sweep, as packing any widths is hard; for each of these, whose longest trial is 10% or less."""
    chance, ratios = random.Random(0), []
    while len(ratios) < 40:
        nodes = cluster(*(chance.choice((4, 6, 8, 16)) for _ in range(chance.randint(1, 4))))
        slots = sum(node.cpus for node in nodes)
        sizes = [(chance.randint(1, 8), chance.uniform(1, 10)) for _ in range(chance.randint(20, 120))]
        demands = [trial(f"t{n}", min(slots, workers), seconds) for n, (workers, seconds) in enumerate(sizes)]
        bound = lower_bound(demands, nodes)
        if max(demand.seconds for demand in demands) <= 0.1 * bound:
            ratios.append(simulate(demands, nodes).makespan / bound)
    assert max(ratios) <= 1.15


def test_cores_that_no_worker_fills_are_not_counted_as_work_that_could_be_done() -> None:
    """Two workers of 3 cores fit on nodes of 5 cores, not the three that ten cores suggest."""
    demands = [trial(f"t{number}", 1, 1.0, cpus=3) for number in range(4)]
    assert lower_bound(demands, cluster(5, 5)) == 2.0 == simulate(demands, cluster(5, 5)).makespan
    # And of trials of two workers, only one fits beside three slots' rest.
    assert lower_bound([trial(f"t{n}", 2) for n in range(3)], cluster(3)) == 3.0


def test_the_critical_path_leads_from_the_start_to_the_end_without_a_gap() -> None:
    demands = [trial("long", 1, 10.0), trial("a", 1, 6.0), trial("b", 1, 5.0)]
    path = simulate(demands, cluster(2)).critical_path()
    assert [span.demand.trial_id for span in path] == ["a", "b"]
    assert (path[0].start, path[0].end, path[1].end) == (0.0, path[1].start, 11.0)


@pytest.mark.parametrize("running", [0, 64])
def test_a_decision_among_a_thousand_waiting_trials_takes_milliseconds(running: int) -> None:
    chance = random.Random(0)
    nodes = cluster(*([8] * 16))
    waiting = [trial(f"t{n}", chance.choice((1, 2, 4, 8)), chance.uniform(1, 9)) for n in range(1000)]
    live = [
        Running(demand, where, 5.0)
        for n in range(running)
        if (where := place(demand := trial(f"r{n}", 2), [nodes[n % 16]]))
    ]
    took = []
    for _ in range(5):
        before = time.perf_counter()
        next_to_start(waiting, live, nodes)
        took.append(time.perf_counter() - before)
    assert min(took) < 0.05
