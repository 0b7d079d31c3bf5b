"""What a sweep takes as a whole, what is remembered of its cost, and what a budget leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.forecast import Forecast, within_budget
from effnet_cluster.orchestration.measurements import FILE, Measurements, cost_model, learn, recalled, remember
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.sizing.allocation import share_out
from effnet_cluster.orchestration.sizing.packing import Node
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord
from effnet_cluster.orchestration.training.measured import Measurement, kind_of
from effnet_cluster.orchestration.training.probe import probe

from .test_cost import network

NODES = [Node("n", "here", 2, 0, 2**36)]
Planned = Callable[..., Plan]


@pytest.fixture
def plan(digits: Manifest) -> Planned:
    def call(**fields: Any) -> Plan:
        return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0-b1", **fields}), digits)

    return call


def forecast(plan: Plan, nodes: list[Node] = NODES) -> Forecast:
    return Forecast.of(plan, share_out(nodes, plan.spec.execution, plan.typical, cost_model(plan)))


def test_the_sweep_takes_what_its_trials_take(plan: Planned) -> None:
    found = forecast(plan(seeds="0-2"))
    hours = sum(cost.held_seconds for cost in found.costs.values()) / 3600
    assert found.worker_hours == pytest.approx(hours)
    # The model of one is logged while the next one trains.
    path = [found.costs[name].held_seconds for name in found.critical_path]
    assert hours * 3600 / 2 <= sum(path) <= hours * 3600
    assert found.makespan >= sum(path) + max(cost.end for cost in found.costs.values())


def test_cores_that_all_train_also_log_the_models(plan: Planned) -> None:
    """Two trials at a time on two cores, against one at a time, whose models the other core logs."""
    planned = plan(seeds="0-9", execution={"cpus_per_worker": 1})
    both, one = forecast(planned), forecast(plan(seeds="0-9", execution={"cpus_per_worker": 1, "max_concurrent": 1}))
    costs = [both.costs[trial.trial_id] for trial in planned.trials]
    last = max(cost.end for cost in costs)
    assert one.makespan == pytest.approx(sum(cost.held_seconds for cost in costs) + last)
    work = sum(cost.held_seconds + cost.end for cost in costs)
    assert both.schedule.makespan + last < both.makespan == pytest.approx(work / 1.6)
    # What finished trials took has it all in it.
    known = Measurement(use_gpu=False, cpus=1, networks=tuple(map(network, planned.trials)), factors=(1.0,))
    taught = cost_model(planned).model_copy(update={"measured": known})
    after = Forecast.of(planned, share_out(NODES, planned.spec.execution, planned.typical, taught))
    assert after.makespan == pytest.approx(after.schedule.makespan + max(cost.end for cost in after.costs.values()))


def test_a_search_that_makes_up_its_trials_is_predicted_by_its_examples(plan: Planned) -> None:
    found = forecast(plan(search={"method": "optuna", "trials": 7, "sweep": {"lr": "1e-4..1e-2:log"}}))
    assert len(found.schedule.spans) == 7


def test_a_budget_takes_seeds_first_and_then_epochs(plan: Planned, digits: Manifest) -> None:
    whole = plan(seeds="0-3", recipe={"epochs": 10})

    def cut(hours: float) -> tuple[Plan, str]:
        return within_budget(whole, hours, forecast, lambda spec: make_plan(spec, digits))

    hours = forecast(whole).worker_hours
    assert cut(hours) == (whole, "")
    for share, seeds, epochs in ((0.6, 2, 10), (0.25, 1, 10), (0.12, 1, None)):
        left, told = cut(share * hours)
        assert forecast(left).worker_hours <= share * hours
        assert len(left.spec.seeds) == seeds
        assert epochs is None or left.spec.recipe.epochs == epochs
        assert f"{seeds} of 4 seeds" in told
    assert left.spec.recipe.epochs in range(2, 10)
    assert f"{left.spec.recipe.epochs} of 10 epochs" in told
    one_more = left.spec.model_copy(
        update={"recipe": left.spec.recipe.model_copy(update={"epochs": left.spec.recipe.epochs + 1})}
    )
    assert forecast(make_plan(one_more, digits)).worker_hours > 0.12 * hours, "another epoch would have fitted"
    with pytest.raises(UserError, match=r"^--budget-hours 0.001: even one seed and one epoch take [^\n]*$"):
        cut(0.001)


def test_what_was_measured_is_remembered_and_not_asked_for_again(plan: Planned, tmp_path: Path) -> None:
    planned = plan(activations="silu,relu")
    costs, order = recalled(planned, NODES, tmp_path)
    assert costs.measured is None
    assert order is not None
    assert [trial.variant for trial in order.trials] == ["b0", "b1", "b0"]
    assert order.cpus == 1
    found = Measurement(use_gpu=False, cpus=1, networks=tuple(network(trial, kind_of(trial)) for trial in order.trials))
    kept = remember(planned, costs, found, tmp_path)
    assert recalled(planned, NODES, tmp_path) == (kept, None)
    # Another batch is another setting; another variant is measured besides.
    assert recalled(plan(recipe={"global_batch": 64}), NODES, tmp_path)[0].measured is None
    more = recalled(plan(variants="b0-b2"), NODES, tmp_path)[1]
    assert more is not None
    assert [trial.variant for trial in more.trials] == ["b2"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"k": 3}', b'{"k": {"cpus": "x"}}'])
def test_a_broken_file_is_one_that_knows_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Measurements(tmp_path).get("k") is None
    Measurements(tmp_path).put("k", Measurement(use_gpu=False, cpus=1))
    assert Measurements(tmp_path).get("k") == Measurement(use_gpu=False, cpus=1)


def test_finished_trials_teach_what_the_next_ones_take(plan: Planned, tmp_path: Path) -> None:
    planned = plan(variants="b0", seeds="0-2")
    costs, order = recalled(planned, NODES, tmp_path)
    assert order is not None
    costs = remember(planned, costs, Measurement(use_gpu=False, cpus=1, networks=(network(order.trials[0]),)), tmp_path)
    shares = share_out(NODES, planned.spec.execution, planned.trials, costs)
    cost = shares.cost_of(planned.trials[0])
    took = 1.5 * cost.steps * cost.step_seconds
    done = TrialRecord(
        *(planned.trials[0].trial_id, "r", Outcome.COMPLETED, "", None, "b0", "silu", "residual", 0, 32, 1, 1),
        *(32, 1, "drop", 10, "0" * 64),
        seconds=took,
        began=100.0,
        first_step=104.0,
        ended=100.0 + took + 1.5 * cost.evaluation + 11.0,
    )
    others = [
        *(replace(done, trial_id="another"), replace(done, outcome=Outcome.FAILED)),
        *(replace(done, ended=None), replace(done, first_step=None)),
    ]
    learned = learn([done, *others], planned, shares, tmp_path)
    assert learned is not None
    assert learned.factors == pytest.approx((1.5,))
    assert learned.starts == pytest.approx((4.0,))
    assert learned.ends == pytest.approx((7.0,))
    again = recalled(planned, NODES, tmp_path)[0]
    after = share_out(NODES, planned.spec.execution, planned.trials, again).cost_of(planned.trials[0])
    assert after.seconds == pytest.approx(done.elapsed)


def test_a_probe_measures_what_was_ordered(plan: Planned, tmp_path: Path) -> None:
    planned = plan(variants="b0", activations="silu,relu", recipe={"global_batch": 8})
    order = recalled(planned, NODES, tmp_path)[1]
    assert order is not None
    found = probe(order)
    assert [(one.kind, one.images) for one in found.networks] == [("silu", (2, 8)), ("relu", (2, 8))]
    for one in found.networks:
        assert 0 < one.seconds[0] <= 1.5 * one.seconds[1] < 10
        assert 0 < one.eval_seconds < one.seconds[1]
        assert 0 < one.load_seconds < 1
