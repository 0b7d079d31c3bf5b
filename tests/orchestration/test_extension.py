"""More of an experiment: nothing that is there is planned anew, and wrong calls are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.extension import Extension
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.search.optuna_source import OptunaSource
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.storage import Storage


def plan(digits: Manifest, **fields: Any) -> Plan:
    fields = {"name": "x", "variants": "b0-b1", "seeds": "0-1", "recipe": {"epochs": 10}} | fields
    return make_plan(ExperimentSpec.parse(fields), digits)


def digests(made: Plan) -> list[str]:
    return [trial.digest(made.data_digest) for trial in made.trials]


@pytest.mark.parametrize(
    ("extension", "fields"),
    [
        (Extension(seeds="3-4"), {"seeds": "0,1,3,4"}),
        (Extension(variants="b4"), {"variants": "b0,b1,b4"}),
        (Extension(variants="b4,b2.5", seeds="7"), {"variants": "b0,b1,b4,b2.5", "seeds": "0,1,7"}),
        (Extension(activations="relu", shortcuts="none"), {"activations": "own,relu", "shortcuts": "residual,none"}),
        (Extension(epochs="20"), {"recipe": {"epochs": 20}}),
        (Extension(epochs=20, seeds="2"), {"recipe": {"epochs": 20}, "seeds": "0,1,2"}),
    ],
)
def test_an_extended_plan_is_that_of_the_whole_experiment_and_repeats_no_training(
    digits: Manifest, extension: Extension, fields: dict[str, Any]
) -> None:
    before = plan(digits)
    after = extension.apply(before)
    assert after == plan(digits, **fields)
    assert set(digests(before)) <= set(digests(after)), "a checkpoint would be refused"
    assert len(set(digests(after))) == len(after.trials)
    assert Plan.model_validate_json(after.model_dump_json()) == after


def test_trials_that_are_there_keep_what_an_earlier_release_resolved(digits: Manifest) -> None:
    before = plan(digits)
    old = tuple(trial.model_copy(update={"min_crop": 0.123}) for trial in before.trials)
    after = Extension(epochs="20", seeds="5").apply(before.model_copy(update={"trials": old}))
    assert [trial.min_crop for trial in after.trials if trial.seed != 5] == [0.123] * 4
    assert {trial.recipe.epochs for trial in after.trials} == {20}


def test_what_is_swept_is_combined_with_what_is_new(digits: Manifest) -> None:
    before = plan(digits, search={"sweep": {"lr": "1e-3,3e-3"}})
    after = Extension(seeds="2", epochs="12").apply(before)
    assert (len(before.trials), len(after.trials)) == (8, 12)
    wanted = {(seed, lr) for seed in (0, 1, 2) for lr in (1e-3, 3e-3)}
    assert {(trial.seed, trial.recipe.lr) for trial in after.trials} == wanted
    assert {trial.trial_id for trial in before.trials} <= {trial.trial_id for trial in after.trials}
    assert {trial.recipe.epochs for trial in after.trials} == {12}


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (Extension(), "say what 'x' gets more of: --epochs"),
        (Extension(epochs="10"), "--epochs 10: the trials of 'x' have 10; name more"),
        (Extension(epochs="3"), "--epochs 3: the trials of 'x' have 10; name more"),
        (Extension(epochs="many"), "recipe.epochs: "),
        (Extension(variants="b1-b2"), "--variants b1: 'x' has that already"),
        (Extension(seeds="1,2"), "--seeds 1: 'x' has that already"),
        (Extension(shortcuts="residual"), "--shortcuts residual: 'x' has that already"),
        (Extension(variants="b99x"), "b99x"),
        (Extension(seeds="4-3"), "runs backwards"),
        (Extension(activations="silu"), "that adds no trial to 'x'"),  # what each variant has of its own
    ],
)
def test_a_wrong_call_is_one_line(digits: Manifest, extension: Extension, words: str) -> None:
    with pytest.raises(UserError) as caught:
        extension.apply(plan(digits))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


RANGE = {"lr": "1e-4..1e-2:log"}


def test_a_random_search_is_extended_by_trials_and_epochs(digits: Manifest) -> None:
    drawn = plan(digits, search={"method": "random", "trials": 3, "sweep": RANGE})
    with pytest.raises(UserError, match="only --epochs and --trials extend it"):
        Extension(seeds="9").apply(drawn)
    longer = Extension(epochs="20").apply(drawn)
    assert digests(longer) == digests(drawn)
    assert {trial.recipe.epochs for trial in longer.trials} == {20}
    more = Extension(trials="5").apply(longer)
    assert digests(more)[:3] == digests(drawn)
    assert len(set(digests(more))) == 5
    whole = {"method": "random", "trials": 5, "sweep": RANGE}
    assert more == Extension(trials=5, epochs=20).apply(drawn) == plan(digits, search=whole, recipe={"epochs": 20})


def test_a_grid_that_sweeps_its_epochs_is_not_extended_by_them(digits: Manifest) -> None:
    swept = plan(digits, search={"sweep": {"epochs": "5,10"}})
    with pytest.raises(UserError, match="sweeps its epochs"):
        Extension(epochs="20").apply(swept)


def test_a_search_that_makes_up_its_trials_is_extended_by_trials_alone(digits: Manifest, tmp_path: Path) -> None:
    adaptive = plan(digits, search={"method": "optuna", "trials": 3, "sweep": RANGE})
    for extension in (Extension(epochs="20"), Extension(seeds="3"), Extension(trials="5", epochs="20")):
        with pytest.raises(UserError, match="makes up its trials as it goes; only --trials extends it"):
            extension.apply(adaptive)
    asked = try_all(adaptive, tmp_path)
    more = Extension(trials="5").apply(adaptive)
    assert more == plan(digits, search={"method": "optuna", "trials": 5, "sweep": RANGE})
    again = try_all(more, tmp_path)
    assert (len(asked), len(again)) == (3, 2)
    assert not set(asked) & set(again)


def try_all(made: Plan, folder: Path) -> list[str]:
    """What a driver of the plan tries: all that the search asks for, each at once as good as the last."""
    spec = made.spec
    source = OptunaSource(spec.space, spec.search, spec.search_seed, made.trial_of, Storage(str(folder)))
    tried = []
    while not source.exhausted:
        (trial,) = source.waiting()
        source.take(trial.trial_id)
        source.ended(trial.trial_id, "completed", {"top1": 0.5})
        tried.append(trial.trial_id)
    return tried


@pytest.mark.parametrize(
    ("search", "extension", "words"),
    [
        ({"method": "random", "trials": 3, "sweep": RANGE}, Extension(trials=3), "--trials 3: 'x' has 3; name more"),
        ({"method": "optuna", "trials": 3, "sweep": RANGE}, Extension(trials=2), "--trials 2: 'x' has 3; name more"),
        ({"method": "random", "trials": 3, "sweep": RANGE}, Extension(trials="many"), "search.trials: "),
        ({"method": "random", "trials": 3, "sweep": {"lr": "1e-3,3e-3"}}, Extension(trials=9), "only 8 different"),
        ({"method": "grid"}, Extension(trials=9), "a grid runs every combination"),
    ],
)
def test_a_wrong_number_of_trials_is_one_line(
    digits: Manifest, search: dict[str, Any], extension: Extension, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        extension.apply(plan(digits, search=search))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
