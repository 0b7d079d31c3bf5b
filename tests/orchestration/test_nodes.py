"""What fits on a cluster's nodes: against trying every placement."""

from __future__ import annotations

import itertools
import random

import pytest

from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.nodes import TRIAL_MEMORY, Node, share_out
from effnet_cluster.orchestration.plan import Plan
from effnet_cluster.orchestration.spec import ExperimentSpec

LARGE = 64 * 1024**3


def nodes(*sizes: tuple[int, int], memory: int = LARGE) -> list[Node]:
    return [Node(f"id{n}", f"10.0.0.{n}", cpus, gpus, memory) for n, (cpus, gpus) in enumerate(sizes)]


def plan(trials: int = 1, **execution: object) -> Plan:
    fields = {"name": "x", "variants": "b0", "seeds": list(range(trials)), "execution": execution}
    spec = ExperimentSpec.parse({**fields, "recipe": {"global_batch": 240}})
    made = Plan(spec=spec, trials=(), classes=("a",), train_samples=1, val_samples=1, data_digest="")
    return made.model_copy(update={"trials": tuple(spec.combinations())})


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
                share_out(cluster, plan(trials, **wanted))
            continue
        resources, concurrent = share_out(cluster, plan(trials, **wanted))
        placed += 1
        assert resources.use_gpu == bool(gpus)
        assert each in (None, resources.cpus)
        assert 1 <= concurrent <= trials
        together = concurrent * workers
        assert can_place(cluster, together, resources.cpus, gpus)
        if each is None:
            assert not can_place(cluster, together, resources.cpus + 1, gpus), "cores are left over"
        if concurrent < trials:
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
    resources, together = share_out(nodes(*sizes), plan(**wanted))
    assert (resources.cpus, together) == (cpus, concurrent)


def test_an_elastic_trial_counts_as_what_it_can_get_of_the_allowed_numbers() -> None:
    """240 images are shared equally by 5 and by 6 workers, not by 7."""
    resources, _ = share_out(nodes((4, 0), (3, 0)), plan(workers="5:8"))
    assert resources.cpus == 1
    resources, concurrent = share_out(nodes((8, 0), (4, 0)), plan(2, workers="5:6"))
    assert (resources.cpus, concurrent) == (1, 2)


def test_as_many_trials_run_as_asked_or_as_memory_holds() -> None:
    sizes = [(8, 0), (8, 0)]
    assert share_out(nodes(*sizes), plan(16, workers=1, max_concurrent=3))[1] == 3
    resources, concurrent = share_out(nodes(*sizes, memory=2 * TRIAL_MEMORY), plan(16, workers=1))
    assert (resources.cpus, concurrent) == (4, 4)
    with pytest.raises(UserError, match="640 MiB of memory"):
        share_out(nodes(*sizes, memory=TRIAL_MEMORY - 1), plan())


def test_a_refusal_names_the_nodes_and_what_to_change() -> None:
    with pytest.raises(UserError) as caught:
        share_out(nodes((4, 2), (3, 0)), plan(workers=3, cpus_per_worker=2, device="gpu"))
    assert str(caught.value) == (
        "--workers 3 with 2 CPU cores and a GPU per worker: only 2 such workers fit on the cluster's nodes "
        "(10.0.0.0 4 cores and 2 GPUs, 10.0.0.1 3 cores); use fewer workers or cores"
    )
