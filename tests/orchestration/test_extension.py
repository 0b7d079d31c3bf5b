"""More of an experiment: nothing that is there is planned anew, and wrong calls are one line."""

from __future__ import annotations

from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.extension import Extension
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec


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


def test_searches_are_extended_by_epochs_alone_or_not_at_all(digits: Manifest) -> None:
    drawn = plan(digits, search={"method": "random", "trials": 3, "sweep": {"lr": "1e-4..1e-2:log"}})
    with pytest.raises(UserError, match="only --epochs extends it"):
        Extension(seeds="9").apply(drawn)
    longer = Extension(epochs="20").apply(drawn)
    assert digests(longer) == digests(drawn)
    assert {trial.recipe.epochs for trial in longer.trials} == {20}
    swept = plan(digits, search={"sweep": {"epochs": "5,10"}})
    with pytest.raises(UserError, match="sweeps its epochs"):
        Extension(epochs="20").apply(swept)


def test_a_search_that_makes_up_its_trials_is_not_extended(digits: Manifest) -> None:
    adaptive = plan(digits, search={"method": "optuna", "trials": 3, "sweep": {"lr": "1e-4..1e-2:log"}})
    with pytest.raises(UserError, match="makes up its trials"):
        Extension(epochs="20").apply(adaptive)
