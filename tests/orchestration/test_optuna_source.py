"""Optuna's trials: what a killed driver's successor asks for, whether it is worth it, and the Pareto front."""

import itertools
import statistics
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.search.optuna_source import STATE_FILE, OptunaSource
from effnet_cluster.orchestration.search.pareto import front
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.job import TrialPlan
from effnet_cluster.orchestration.training.storage import Storage

TRIALS = 12
RECIPE = {"lr": "1e-4..1:log", "dropout": "0..0.9", "epochs": "3..9", "policy": "none,rand"}


def planned(digits: Manifest, trials: int = TRIALS, **fields: Any) -> Plan:
    search = {"method": "optuna", "trials": trials, **fields.pop("search", {})}
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", "search": search, **fields}), digits)


def source_of(plan: Plan, folder: Path, finished: Collection[str] | None = None) -> OptunaSource:
    spec, storage = plan.spec, Storage(str(folder))
    return OptunaSource(spec.space, spec.search, spec.search_seed, plan.trial_of, storage, finished)


def measured(trial: TrialPlan) -> dict[str, float]:
    """Best at a learning rate of 0.01 and a dropout of 0.3."""
    lost = (trial.recipe.lr - 0.01) ** 2 + ((trial.recipe.dropout or 0.0) - 0.3) ** 2
    return {"top1": 1 - lost, "seconds": 1.0}


def names(trials: Sequence[TrialPlan]) -> list[str]:
    return [trial.trial_id for trial in trials]


def stops(trial: TrialPlan) -> bool:
    """Whether a scheduler would stop it; a quarter of all."""
    return trial.recipe.dropout is not None and int(1e4 * trial.recipe.dropout) % 4 == 0


def run(open_source: Callable[[], OptunaSource], parallel: int, killed_after: int = 0) -> list[str]:
    """Run all trials, the oldest ending first; returns what was started, in that order.

    Args:
        open_source: of a driver; called once more where that is killed.
        parallel: how many trials run at a time.
        killed_after: of how many changes of the source; what runs then is lost.
    """
    source, running, started = open_source(), list[TrialPlan](), dict[str, None]()
    for step in itertools.count(1):
        if len(running) < parallel and (waiting := source.waiting()):
            # Every other time the driver is killed between asking for a trial and starting it.
            if step != killed_after or step % 2:
                running.append(waiting[0])
                started[waiting[0].trial_id] = None
                source.take(waiting[0].trial_id)
        elif running:
            trial = running.pop(0)
            source.ended(trial.trial_id, "stopped" if stops(trial) else "completed", measured(trial) | {"share": 0.4})
        else:
            break
        if step == killed_after:
            source, running = open_source(), []
    assert source.exhausted
    return list(started)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_driver_killed_after_any_change_is_followed_by_the_same_trials(
    digits: Manifest, tmp_path: Path, parallel: int
) -> None:
    plan = planned(digits, recipe=RECIPE, seeds="0-1", variants="b0,b1")
    undisturbed = run(lambda: source_of(plan, tmp_path / "whole"), parallel)
    assert len(undisturbed) == TRIALS
    state = Storage(str(tmp_path / "whole")).read(STATE_FILE)
    assert b'"stopped"' in state
    for step in range(1, 2 * TRIALS + 1):
        folder = tmp_path / str(step)
        assert run(partial(source_of, plan, folder), parallel, killed_after=step) == undisturbed
        assert Storage(str(folder)).read(STATE_FILE) == state


def test_what_ended_unseen_is_told_later_and_what_failed_is_tried_again_under_its_name(
    digits: Manifest, tmp_path: Path
) -> None:
    plan = planned(digits, recipe=RECIPE)
    source = source_of(plan, tmp_path)
    first, second, third = (take(source) for _ in range(3))
    source.ended(first.trial_id, "failed")
    # The driver is killed: the second has completed without its knowledge, the third had only begun.
    source = source_of(plan, tmp_path)
    assert names(source.waiting()) == names([first, second, third])
    source.ended(second.trial_id, "completed", measured(second))
    assert names(source.waiting()) == names([first, third])
    assert take(source) == first
    source.ended(first.trial_id, "completed", measured(first))
    source.ended(first.trial_id, "failed")  # what has completed stays so
    source = source_of(plan, tmp_path)
    assert names(source.waiting()) == names([third])
    source.ended(third.trial_id, "stopped", measured(third))
    source = source_of(plan, tmp_path)
    assert third.trial_id not in names(source.waiting())
    taken = [take(source) for _ in range(TRIALS - 3)]
    assert source.exhausted
    assert len({*names(taken), *names([first, second, third])}) == TRIALS


def take(source: OptunaSource) -> TrialPlan:
    trial = source.waiting()[0]
    source.take(trial.trial_id)
    return trial


def test_a_trial_whose_stop_was_noted_and_not_carried_out_runs_again(digits: Manifest, tmp_path: Path) -> None:
    plan = planned(digits, recipe=RECIPE)
    source = source_of(plan, tmp_path)
    first, second = take(source), take(source)
    for trial in (first, second):
        source.ended(trial.trial_id, "stopped", measured(trial))
    assert first.trial_id not in names(source_of(plan, tmp_path).waiting())
    again = source_of(plan, tmp_path, {second.trial_id})
    waiting = names(again.waiting())
    assert waiting[0] == first.trial_id
    assert second.trial_id not in waiting
    again.take(first.trial_id)
    again.ended(first.trial_id, "stopped", measured(first))
    assert first.trial_id not in names(source_of(plan, tmp_path, {first.trial_id, second.trial_id}).waiting())


def test_no_two_trials_are_the_same_and_a_small_space_is_tried_out(digits: Manifest, tmp_path: Path) -> None:
    recipe = {"lr": "0.01,0.02", "policy": "none,rand"}
    plan = planned(digits, 16, recipe=recipe, seeds="0-1", variants="b0,b1")
    source, taken = source_of(plan, tmp_path), list[TrialPlan]()
    while not source.exhausted:
        taken.append(take(source))
        if len(taken) % 2:  # every other one runs to the end of the search
            source.ended(taken[-1].trial_id, "completed", measured(taken[-1]))
    assert sorted(names(taken)) == sorted(names(make_plan(as_grid(plan.spec), digits).trials))


def as_grid(spec: ExperimentSpec) -> ExperimentSpec:
    return ExperimentSpec.parse(dict(spec) | {"search": {"sweep": spec.search.sweep}})


def test_networks_are_searched_too_and_only_those_that_there_are(digits: Manifest, tmp_path: Path) -> None:
    plan = planned(digits, variants="b0,lite0,resnet50", activations="own", shortcuts="residual,none", recipe=RECIPE)
    source = source_of(plan, tmp_path)
    taken = [take(source) for _ in range(TRIALS)]
    assert {(trial.variant, trial.model.activation) for trial in taken} <= {
        ("b0", "silu"),
        ("lite0", "relu6"),
        ("resnet50", "relu"),
    }
    assert len({(trial.variant, trial.model.shortcut) for trial in taken}) > 2


def test_a_state_that_cannot_be_read_is_told_in_one_line(digits: Manifest, tmp_path: Path) -> None:
    plan = planned(digits, recipe=RECIPE)
    for content in (b"{", b"[]", b'{"configuration": {}, "speed": 1}', b"\xff"):
        Storage(str(tmp_path)).write(STATE_FILE, content)
        with pytest.raises(
            UserError, match=r"^the search's state .*trials\.jsonl is broken \(.*delete it to search anew$"
        ):
            source_of(plan, tmp_path)


def best(plan: Plan, folder: Path) -> float:
    source, found = source_of(plan, folder), 0.0
    while not source.exhausted:
        trial = take(source)
        found = max(found, measured(trial)["top1"])
        source.ended(trial.trial_id, "completed", measured(trial))
    return found


def test_the_estimator_beats_random_draws_on_a_quadratic_in_the_median_of_ten_seeds(
    digits: Manifest, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"recipe": {"lr": "1e-4..1:log", "dropout": "0..0.9"}}
    theirs, random_ones = [], []
    for seed in range(10):
        theirs.append(best(planned(digits, 30, search={"search_seed": seed}, **fields), tmp_path / str(seed)))
        drawn = planned(digits, 30, search={"search_seed": seed, "method": "random"}, **fields).trials
        random_ones.append(max(measured(trial)["top1"] for trial in drawn))
    lost, lost_at_random = 1 - statistics.median(theirs), 1 - statistics.median(random_ones)
    assert lost < 0.5 * lost_at_random


def test_a_search_of_two_objectives_comes_nearer_to_the_front_than_random_draws(
    digits: Manifest, tmp_path: Path
) -> None:
    """Both want a dropout of 0; the learning rate trades one for the other."""

    def measure(trial: TrialPlan) -> dict[str, float]:
        rate, dropout = trial.recipe.lr, trial.recipe.dropout or 0.0
        return {"top1": 1 - (rate - 0.2) ** 2 - dropout, "seconds": (rate - 0.8) ** 2 + dropout}

    fields: dict[str, Any] = {"recipe": {"lr": "1e-3..1", "dropout": "0..0.9"}}
    search = {"objectives": "top1,seconds"}
    plan = planned(digits, 40, search=search, **fields)
    source, trials = source_of(plan, tmp_path), list[TrialPlan]()
    while not source.exhausted:
        trials.append(take(source))
        source.ended(trials[-1].trial_id, "completed", measure(trials[-1]))
    drawn = planned(digits, 40, search=search | {"method": "random"}, **fields).trials

    def typical(found: Sequence[TrialPlan]) -> float:
        return statistics.median(trial.recipe.dropout or 0.0 for trial in found[20:])

    assert typical(trials) < 0.5 * typical(drawn)


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3)), st.tuples(*[st.booleans()] * 3))
def test_the_front_is_what_no_other_point_dominates(points: list[tuple[int, ...]], maximized: tuple[bool, ...]) -> None:
    def dominated(point: tuple[int, ...]) -> bool:
        signs = [1 if more else -1 for more in maximized]
        return any(
            all(s * a >= s * b for s, a, b in zip(signs, other, point, strict=True)) and other != point
            for other in points
        )

    assert front(points, maximized) == [not dominated(point) for point in points]
