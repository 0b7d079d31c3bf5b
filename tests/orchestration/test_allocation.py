"""What each trial's workers get of a cluster: against trying every placement, and by the simulated sweep."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.sizing.allocation import TRIAL_MEMORY, Shares, share_out
from effnet_cluster.orchestration.sizing.line import Line
from effnet_cluster.orchestration.sizing.packing import Node, place, place_together
from effnet_cluster.orchestration.sizing.simulation import simulate
from effnet_cluster.orchestration.training.execution import Execution
from effnet_cluster.orchestration.training.job import TrialPlan

from .plans import planned

LARGE = 64 * 1024**3


def nodes(*sizes: tuple[int, int], memory: int = LARGE) -> list[Node]:
    return [Node(f"id{n}", f"10.0.0.{n}", cpus, gpus, memory) for n, (cpus, gpus) in enumerate(sizes)]


def shared(cluster: Sequence[Node], trials: int | Sequence[TrialPlan] = 1, **execution: Any) -> Shares:
    if isinstance(trials, int):
        trials = [planned(seed=seed, global_batch=240) for seed in range(trials)]
    return share_out(cluster, Execution(**execution), trials)


def can_place(cluster: list[Node], workers: int, cpus: int, gpus: int) -> bool:
    """Whether so many equal workers can be placed, by trying how many each node takes."""
    takes = [range(min(node.cpus // cpus, node.gpus // gpus if gpus else workers) + 1) for node in cluster]
    return any(sum(chosen) == workers for chosen in itertools.product(*takes))


def test_every_request_that_can_be_placed_is_placed_and_every_other_is_refused() -> None:
    chance = random.Random(0)
    placed = refused = 0
    for _ in range(600):
        cluster = nodes(*((chance.randrange(9), chance.choice((0, 0, 1, 2))) for _ in range(3)))
        workers, trials = chance.randrange(1, 9), chance.randrange(1, 4)
        each, device = chance.choice((None, None, 1, 2, 3)), chance.choice(("auto", "cpu", "gpu"))
        wanted = {"workers": workers, "cpus_per_worker": each, "device": device}
        gpus = int(device == "gpu" or (device == "auto" and any(node.gpus for node in cluster)))
        possible = can_place(cluster, workers, each or 1, gpus)
        if not possible:
            refused += 1
            with pytest.raises(UserError, match=f"^--workers {workers} with [^\n]*$"):
                shared(cluster, trials, **wanted)
            continue
        shares = shared(cluster, trials, **wanted)
        placed += 1
        assert shares.use_gpu == bool(gpus)
        assert each in (None, shares.cpus)
        assert 1 <= shares.concurrent <= trials
        together = shares.concurrent * workers
        assert can_place(cluster, together, shares.cpus, gpus)
        if each is None:
            assert not can_place(cluster, together, shares.cpus + 1, gpus), "cores are left over"
        if shares.concurrent < trials:
            assert not can_place(cluster, together + workers, each or 1, gpus), "another trial would have fitted"
    assert min(placed, refused) > 100


@pytest.mark.parametrize(
    ("sizes", "wanted", "cpus", "concurrent"),
    [
        ([(1, 0), (1, 0)], {"workers": 2}, 1, 1),
        ([(8, 0), (96, 8)], {"workers": 8}, 12, 1),
        ([(8, 0), (96, 8)], {"workers": 8, "device": "cpu"}, 12, 1),
        ([(2, 0)], {"workers": 1}, 2, 1),
        ([(0, 0), (4, 0), (4, 0)], {"workers": 2}, 4, 1),
        ([(4, 0), (4, 0)], {"workers": "3:20"}, 1, 1),
    ],
)
def test_cores_are_counted_per_node(
    sizes: list[tuple[int, int]], wanted: dict[str, object], cpus: int, concurrent: int
) -> None:
    shares = shared(nodes(*sizes), **wanted)
    assert (shares.cpus, shares.concurrent) == (cpus, concurrent)


def test_an_elastic_trial_counts_as_what_it_can_get_of_the_allowed_numbers() -> None:
    """240 images are shared equally by 5 and by 6 workers, not by 7."""
    shares = shared(nodes((4, 0), (3, 0)), workers="5:8")
    assert shares.cpus == 1
    assert shares.demand_of(planned(global_batch=240)).workers == 6
    assert shares.resources_of(planned(global_batch=240)).counts == (5, 6, 8)
    shares = shared(nodes((8, 0), (4, 0)), 2, workers="5:6")
    assert (shares.cpus, shares.concurrent) == (1, 2)


def test_as_many_trials_run_as_asked_or_as_memory_holds() -> None:
    sizes = [(8, 0), (8, 0)]
    assert shared(nodes(*sizes), 16, workers=1, max_concurrent=3).concurrent == 3
    worker = shared(nodes(*sizes)).demand_of(planned(global_batch=240)).memory
    # With some room to move: a trial's own process is put where most memory is left, not beside its worker.
    shares = shared(nodes(*sizes, memory=2 * (TRIAL_MEMORY + worker) + worker // 2), 16, workers=1)
    assert (shares.cpus, shares.concurrent) == (4, 4)
    with pytest.raises(UserError, match=f"{TRIAL_MEMORY >> 20} MiB of memory"):
        shared(nodes(*sizes, memory=TRIAL_MEMORY - 1))


def test_a_trial_that_is_predicted_to_take_more_memory_than_there_is_is_placed_by_its_cores() -> None:
    shares = shared(nodes((2, 0), memory=TRIAL_MEMORY + 2**20))
    assert shares.resources_of(planned(global_batch=240)).per_worker == {"CPU": 2}


def test_a_refusal_names_the_nodes_and_what_to_change() -> None:
    with pytest.raises(UserError) as caught:
        shared(nodes((4, 2), (3, 0)), workers=3, cpus_per_worker=2, device="gpu")
    assert str(caught.value) == (
        "--workers 3 with 2 CPU cores and a GPU per worker: only 2 such workers fit on the cluster's nodes "
        "(10.0.0.0 4 cores and 2 GPUs, 10.0.0.1 3 cores); use fewer workers or cores"
    )


FAMILY = [planned(f"b{number}", seed) for number in range(8) for seed in range(2)]


def test_workers_by_variant_are_each_trials_own() -> None:
    shares = shared(nodes((8, 0), (8, 0)), FAMILY, workers="b0-b3=1,b4-b6=2,b7=8")
    assert [shares.demand_of(trial).workers for trial in FAMILY[::2]] == [1, 1, 1, 1, 2, 2, 2, 8]
    with pytest.raises(UserError, match=r"^--workers 32 of b7 with 1 CPU cores per worker: only 16 such workers fit"):
        shared(nodes((8, 0), (8, 0)), FAMILY, workers="1,b7=32")


def test_spare_cores_go_to_all_workers_where_trials_differ() -> None:
    """At first b7's eight workers run, and others on the other eight cores: nothing is left over."""
    trials = [planned("b0"), planned("b7")]
    assert shared(nodes((8, 0), (8, 0)), trials, workers="1,b7=3").cpus == 4
    assert shared(nodes((8, 0), (8, 0)), trials, workers="1,b7=8").cpus == 1


def test_how_many_trials_run_at_once_is_safe_whichever_they_are() -> None:
    shares = shared(nodes((8, 0), (8, 0)), FAMILY, workers="b0-b3=1,b4-b6=2,b7=8")
    assert shares.concurrent == 2, "two of b7 fill the cluster"
    for some in itertools.combinations(FAMILY, shares.concurrent):
        assert len(place_together([shares.demand_of(trial) for trial in some], shares.nodes)) == len(some)


@pytest.fixture
def no_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cluster.orchestration.sizing.cost._START_S", 0.0)
    monkeypatch.setattr("effnet_cluster.orchestration.sizing.cost._END_S", 0.0)
    monkeypatch.setattr("effnet_cluster.orchestration.sizing.cost._END_BLOCK_S", 0.0)


def test_auto_gives_one_worker_each_where_there_are_more_trials_than_slots(no_overhead: None) -> None:
    trials = [planned("b0", seed) for seed in range(64)]
    assert dict(shared(nodes((4, 0)), trials, workers="auto").chosen) == {"b0": 1}


def test_auto_gives_the_trial_that_all_wait_for_more_workers(no_overhead: None) -> None:
    trials = [*(planned("b0", seed, epochs=1) for seed in range(4)), planned("b7", image_size=224, epochs=1)]
    shares = shared(nodes((8, 0)), trials, workers="auto")
    assert shares.chosen["b0"] == 1
    assert shares.chosen["b7"] in (4, 8)
    one = shared(nodes((8, 0)), trials, workers=1, cpus_per_worker=1)
    makespans = [simulate([each.demand_of(trial) for trial in trials], each.nodes).makespan for each in (shares, one)]
    assert makespans[0] < 0.5 * makespans[1]


def test_auto_takes_numbers_that_share_the_batch_and_leave_batchnorm_more_than_one_value(no_overhead: None) -> None:
    trials = [planned("b4", image_size=32, global_batch=6, epochs=1)]
    chosen = shared(nodes((8, 0)), trials, workers="auto").chosen["b4"]
    assert chosen in (1, 2, 3), "six workers have an image each, whose last feature map is one pixel"


def test_auto_with_a_number_for_one_variant_leaves_that_as_it_is() -> None:
    trials = [planned("b0"), planned("b1")]
    shares = shared(nodes((8, 0)), trials, workers="auto,b1=2")
    assert "b1" not in shares.chosen
    assert shares.demand_of(trials[1]).workers == 2


def test_auto_is_quick_for_a_thousand_trials() -> None:
    trials = [planned(f"b{seed % 8}", seed) for seed in range(1000)]
    shares = shared(nodes(*[(8, 0)] * 4), trials, workers="auto")
    assert {shares.demand_of(trial).workers for trial in trials} <= {1, 2, 4, 8, 16, 32}


def test_the_line_starts_trials_while_there_is_room_and_again_when_one_has_ended() -> None:
    trials = [planned("b0", seed) for seed in range(3)]
    line = Line(shared(nodes((2, 0)), trials, workers=1, cpus_per_worker=1), clock=lambda: 0.0)
    waiting = list(trials)
    for _ in range(2):
        started = line.next(waiting)
        assert started is not None
        waiting.remove(started)
    assert line.next(waiting) is None
    line.ended(trials[0].trial_id)
    assert line.next(waiting) is waiting[0]
    assert line.next([]) is None


def test_a_trial_that_goes_on_does_not_take_the_place_that_is_kept_for_another() -> None:
    small = [planned("b0", seed) for seed in range(3)]
    wide = planned("b7", image_size=224)
    shares = shared(nodes((2, 0)), [*small, wide], workers="1,b7=2", cpus_per_worker=1)
    line = Line(shares, clock=lambda: 0.0)
    assert line.next(small[:2]) is small[0]
    assert line.next(small[1:2]) is small[1]
    line.ended(small[0].trial_id)  # paused
    assert line.next([wide]) is None
    assert not line.go_on(small[0])
    assert line.next([wide]) is None
    line.ended(small[1].trial_id)
    assert not line.go_on(small[0])
    assert line.next([wide]) is wide
    line.ended(wide.trial_id)
    assert line.go_on(small[0])


def test_a_trial_that_a_search_makes_later_gets_its_variants_workers() -> None:
    shares = shared(nodes((8, 0)), [planned("b0"), planned("b7", image_size=224)], workers="auto")
    later = planned("b7", 9, image_size=224, global_batch=12, lr=0.1)
    wanted = shares.chosen["b7"]
    assert shares.demand_of(later).workers == max(count for count in (1, 2, 3, 4, 6, 12) if count <= wanted)
    assert place(shares.demand_of(later), shares.nodes) is not None


def test_trials_start_on_nodes_that_have_joined_since() -> None:
    trials, now = [planned("b0", seed) for seed in range(3)], [0.0]
    cluster = nodes((1, 0))
    line = Line(shared(cluster, trials, workers=1, cpus_per_worker=1), lambda: cluster, lambda: now[0])
    assert line.next(trials) is not None
    assert line.next(trials[1:]) is None
    cluster = nodes((1, 0), (1, 0))
    assert line.next(trials[1:]) is None, "nobody has asked for the nodes again"
    now[0] += 11
    assert line.next(trials[1:]) is not None
    assert line.next(trials[2:]) is None
