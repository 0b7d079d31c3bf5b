"""What a sweep tries: values in any notation, each checked; grids and draws, names, and planning a trial later."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cluster.datasets import DataError, Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.search.domains import Choice, Span, parse_domain, text_of
from effnet_cluster.orchestration.search.names import trial_id
from effnet_cluster.orchestration.search.sources import PlannedSource
from effnet_cluster.orchestration.search.space import Network, Space
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.recipes import Recipe

BASE = {"name": "x", "variants": "b0"}


def spec(**fields: Any) -> ExperimentSpec:
    return ExperimentSpec.parse(BASE | fields)


def planned(manifest: Manifest, **fields: Any) -> Plan:
    return make_plan(spec(**fields), manifest)


# What people write


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        ("lr", "1e-3, 3e-3,0.001", Choice((0.001, 0.003))),
        ("lr", ["1e-3", 0.003], Choice((0.001, 0.003))),
        ("epochs", "5,10", Choice((5, 10))),
        ("epochs", "5..10", Span(5, 10, whole=True)),
        ("dropout", "0..0.5", Span(0.0, 0.5)),
        ("dropout", "none,0.3", Choice((None, 0.3))),
        ("dropout", [None, 0.3], Choice((None, 0.3))),
        ("policy", "none,rand", Choice(("none", "rand"))),
        ("augment", "on,off", Choice((True, False))),
        ("lr", "1e-4..1e-2:log", Span(1e-4, 1e-2, log=True)),
        ("global_batch", " 16 .. 64 :log", Span(16, 64, log=True, whole=True)),
    ],
)
def test_lists_and_ranges_are_read_by_the_field(name: str, written: Any, expected: object) -> None:
    found = parse_domain(Recipe, name, written)
    assert found == expected
    assert [type(value) for value in found.ends] == [type(value) for value in expected.ends]  # type: ignore[attr-defined]
    assert parse_domain(Recipe, name, found.plain()) == found


def test_a_sweep_is_the_same_however_it_is_written() -> None:
    ways: list[dict[str, Any]] = [
        {"recipe": {"lr": "1e-3,3e-3", "weight_decay": "0,0.01"}},
        {"recipe": {"weight_decay": [0, "1e-2"], "lr": [0.001, 3e-3]}},
        {"search": {"sweep": {"weight-decay": "0.0,0.01", "lr": ["1e-3", "3e-3"]}}},
        {"search": {"sweep": ["weight-decay=0,.01", "lr=.001,.003"]}},
        {"search": {"sweep": "lr=1e-3,3e-3"}, "recipe": {"weight_decay": "0,0.01"}},
    ]
    first, *others = (spec(**fields) for fields in ways)
    assert list(first.search.sweep) == ["lr", "weight_decay"]
    assert all(other == first for other in others)
    assert ExperimentSpec.parse(first.model_dump(mode="json")) == first
    assert ExperimentSpec.parse(dict(first)) == first
    assert len(list(first.space.grid())) == 4


def test_one_value_is_the_recipes_and_nothing_is_swept() -> None:
    assert spec(recipe={"lr": [0.5]}) == spec(search={"sweep": ["lr=0.5"]}) == spec(recipe={"lr": 0.5})


SWEPT = "lr=1,2"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"recipe": {"lr": "1e-3,-1"}}, "recipe.lr: Input should be greater than 0 (got '-1')"),
    ({"recipe": {"lr": "1e-3,fast"}}, "recipe.lr: Input should be a valid number, unable to parse string"),
    ({"recipe": {"lr": "1e-3..inf"}}, "recipe.lr: Input should be a finite number (got 'inf')"),
    ({"recipe": {"epochs": [5, 7.5]}}, "recipe.epochs: Input should be a valid integer"),
    ({"recipe": {"policy": "auto,best"}}, "recipe.policy: Input should be 'none', 'auto', 'rand' or 'trivial'"),
    ({"recipe": {"lr": "none,1"}}, "recipe.lr: Input should be a valid number"),
    ({"recipe": {"lr": ","}}, "sweep: lr has no values; give some, such as lr=A,B"),
    ({"recipe": {"policy": "auto..rand"}}, "is a range, but policy is no number; list its values"),
    ({"recipe": {"augment": "off..on"}}, "is a range, but augment is no number; list its values"),
    ({"recipe": {"lr": "1..1e-3"}}, "sweep: lr=1..1e-3 runs backwards; the smaller number comes first"),
    ({"recipe": {"dropout": "0..0.5:log"}}, "sweep: dropout=0..0.5:log is logarithmic, but begins at 0"),
    ({"recipe": {"lr": "1e-4..1e-2:log"}}, "search: lr=0.0001..0.01:log is a range, which a grid cannot walk through"),
    ({"recipe": {"lr": "1,2"}, "search": {"sweep": "lr=3,4"}}, "lr is swept twice, in the recipe and in the sweep"),
    ({"search": {"sweep": ["lr=1,2", "lr=3,4"]}}, "sweep: lr is there twice; give all its values at once"),
    ({"search": {"sweep": "lr"}}, "sweep: expected FIELD=VALUES, such as lr=1e-3,3e-3 (got 'lr')"),
    ({"search": {"sweep": "speed=1,2"}}, "sweep: there is no field 'speed' in a recipe"),
    ({"search": {"sweep": "name=paper,basic"}}, "sweep: the recipe's name cannot be swept"),
    ({"search": {"sweep": "seed=1,2"}}, "sweep: seed is not of the recipe; --seeds takes a list itself"),
    ({"search": {"sweep": "variants=b0,b1"}}, "sweep: variants is not of the recipe; --variants takes a list itself"),
    ({"search": {"trials": 3}}, "search: trials are for --search random and optuna; a grid runs every combination"),
    ({"search": "random"}, "search: --search random needs a number of trials, such as --trials 20"),
    ({"search": {"method": "best"}}, "search.method: "),
    (
        {"search": {"method": "random", "trials": 3, "sweep": SWEPT}},
        "there are only 2 different trials; use --trials 2",
    ),
    ({"search": {"objectives": "macs"}}, "search: objectives: top1 comes first, then others once each"),
    ({"search": {"objectives": "top1,speed"}}, "search.objectives.1: "),
    ({"trials": 4}, "trials belongs under 'search:'; move it there"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[case[1][:50] for case in REFUSED])
def test_what_cannot_be_swept_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        spec(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# What is tried


def test_a_grid_is_the_product_with_the_seeds_of_a_configuration_side_by_side(digits: Manifest) -> None:
    plan = planned(
        digits, variants="b0,b1", activations="silu,relu", seeds="0-1", recipe={"lr": "1,2", "epochs": "3,4,5"}
    )
    found = [trial.configuration for trial in plan.trials]
    assert found == [
        {"variant": v, "activation": a, "shortcut": "residual", "seed": n, "epochs": e, "lr": r}
        for v, a in itertools.product(("b0", "b1"), ("silu", "relu"))
        for e, r in itertools.product((3, 4, 5), (1.0, 2.0))
        for n in (0, 1)
    ]
    for trial in plan.trials:
        assert (trial.recipe.lr, trial.recipe.epochs) == (trial.swept["lr"], trial.swept["epochs"])
        assert trial.recipe == Recipe(**plan.spec.recipe.model_dump() | trial.swept)


RANDOM: dict[str, Any] = {
    "variants": "b0-b2",
    "seeds": "3-5",
    "recipe": {"lr": "1e-4..1e-1:log", "dropout": "0..0.5", "epochs": "5..8", "policy": "none,auto,rand"},
}


def random_plan(manifest: Manifest, trials: int, **more: Any) -> Plan:
    return planned(manifest, **RANDOM, search={"method": "random", "trials": trials, **more})


def test_random_draws_follow_from_the_specification_and_a_longer_search_begins_with_a_shorter(digits: Manifest) -> None:
    few, many = random_plan(digits, 10), random_plan(digits, 200)
    assert few.trials == many.trials[:10]
    assert random_plan(digits, 10, search_seed=3).trials == few.trials  # the first of the trials' seeds
    assert random_plan(digits, 10, search_seed=4).trials != few.trials
    assert [trial.seed for trial in few.trials] == [3, 4, 5, 3, 4, 5, 3, 4, 5, 3]
    assert len({trial.trial_id for trial in many.trials}) == 200


def test_random_draws_fill_their_domains_evenly(digits: Manifest) -> None:
    trials = random_plan(digits, 1200).trials
    rates = sorted(trial.recipe.lr for trial in trials)
    for decade in range(3):  # of equal chance, where the range is logarithmic
        assert 330 < sum(10.0 ** (decade - 4) <= rate < 10.0 ** (decade - 3) for rate in rates) < 470
    assert all(1e-4 <= rate <= 1e-1 and float(f"{rate:.4g}") == rate for rate in rates)
    kept = [trial.recipe.dropout or 0.0 for trial in trials]
    assert all(0 <= value <= 0.5 for value in kept)
    assert 540 < sum(value < 0.25 for value in kept) < 660
    for values in ([t.variant for t in trials], [t.recipe.policy for t in trials], [t.recipe.epochs for t in trials]):
        expected = len(trials) / len(set(values))
        assert all(0.8 * expected < values.count(value) < 1.2 * expected for value in set(values))
    assert {t.recipe.epochs for t in trials} == {5, 6, 7, 8}


def test_random_draws_of_a_small_space_find_each_trial_once() -> None:
    space = Space(
        (Network("b0", "silu", "residual"),), {"lr": Choice((1.0, 2.0)), "epochs": Span(1, 9, True, True)}, (7, 8)
    )
    drawn = list(space.draws(0))
    assert space.size == len(drawn) == 36
    assert sorted(map(str, drawn)) == sorted(
        str(space.configuration(space.networks[0], {"lr": rate, "epochs": epochs}, seed))
        for rate in (1.0, 2.0)
        for epochs in range(1, 10)
        for seed in (7, 8)
    )


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_drawn_number_lies_in_its_range_and_is_short(one: float, other: float, log: bool, share: float) -> None:
    low, high = sorted((one, other))
    if low == high:
        return
    value = Span(low, high, log).at(share)
    assert isinstance(value, float)
    assert low <= value <= high
    assert Span(low, high, log).rounded(value) == value


# What a trial needs is asked of each


def test_each_trial_has_its_own_batches_and_none_may_be_one_that_its_workers_cannot_share(digits: Manifest) -> None:
    plan = planned(digits, recipe={"global_batch": "16,100"}, execution={"workers": "1:4"})
    assert [trial.batches_per_epoch for trial in plan.trials] == [1438 // 16, 14]
    assert [plan.worker_counts(trial) for trial in plan.trials] == [(1, 2, 4), (1, 2, 4)]
    odd = planned(digits, recipe={"global_batch": "6,9"}, execution={"workers": "1:4"})
    assert [odd.worker_counts(trial) for trial in odd.trials] == [(1, 2, 3), (1, 3)]
    with pytest.raises(DataError, match="global batch 15 cannot be shared by 2 workers"):
        planned(digits, recipe={"global_batch": "16,15"}, execution={"workers": 2})
    with pytest.raises(UserError, match="global batch 7 cannot be shared equally by any number of workers from 2 to 3"):
        planned(digits, recipe={"global_batch": "6,7"}, execution={"workers": "2:3"})
    with pytest.raises(DataError, match="global batch 9999 is larger than the 1438 training samples"):
        planned(digits, recipe={"global_batch": "16,9999"})
    with pytest.raises(UserError, match=r"there are no published weights of b0-w1\.4"):
        planned(digits, variants="b0-w1.4", search={"sweep": "pretrained=off,on"})
    with pytest.raises(UserError, match="leaves BatchNorm one value per channel"):
        planned(digits, recipe={"micro_batch": "2,1", "global_batch": 4}, image_size=32)
    with pytest.raises(UserError, match="take two images to mix"):
        planned(digits, recipe={"global_batch": "1,2", "mixup": 0.2}, image_size=64)


def test_a_range_of_batches_that_the_workers_do_not_share_is_refused_before_the_data_are_opened() -> None:
    search = {"method": "random", "trials": 5}
    with pytest.raises(
        UserError, match=r"^global_batch=16\.\.64 holds 17, which 2 workers cannot share equally; list "
    ):
        spec(recipe={"global_batch": "16..64"}, search=search, execution={"workers": 2})
    assert spec(recipe={"global_batch": "16..64"}, search=search).space.size == 49


OPTUNA = {"method": "optuna", "trials": 8}


def test_an_adaptive_search_checks_the_outermost_trials_and_lists_none(digits: Manifest) -> None:
    plan = planned(digits, variants="b0,b1", recipe={"lr": "1e-3..1e-1"}, search=OPTUNA)
    assert (plan.trials, plan.trial_count) == ((), 8)
    assert [trial.variant for trial in plan.examples] == ["b0", "b1"]
    with pytest.raises(DataError, match="global batch 15 cannot be shared by 2 workers"):
        planned(digits, recipe={"global_batch": "16,15"}, search=OPTUNA | {"trials": 2}, execution={"workers": 2})
    with pytest.raises(DataError, match="global batch 2000 is larger than the 1438 training samples"):
        planned(digits, recipe={"global_batch": "16..2000"}, search=OPTUNA)


def test_a_trial_can_be_planned_later_from_what_the_plan_keeps(digits: Manifest) -> None:
    fields = RANDOM | {"search": {"method": "random", "trials": 20}}
    plan = Plan.model_validate_json(planned(digits, **fields).model_dump_json())
    bare = plan.model_copy(update={"trials": ()})
    for trial in plan.trials:
        assert plan.trial_of(trial.configuration) is trial
        assert bare.trial_of(trial.configuration) == trial
    configuration = {**plan.trials[0].configuration, "lr": 0.0123}
    late = plan.trial_of(configuration)
    assert (late.recipe.lr, late.configuration) == (0.0123, configuration)
    with pytest.raises(UserError, match="greater than 0"):
        plan.trial_of({**configuration, "lr": -1.0})


def test_a_plan_of_an_earlier_version_is_read_and_runs_but_cannot_add_trials(digits: Manifest) -> None:
    fields = planned(digits).model_dump(mode="json")
    for name in ("name", "shuffle_block"):
        del fields["data_facts"][name]
    del fields["spec"]["search"], fields["trials"][0]["swept"]
    old = Plan.model_validate(fields)
    (trial,) = old.trials
    assert old.trial_of(trial.configuration) is trial
    with pytest.raises(UserError, match="'x' was planned by an earlier version, which cannot add trials"):
        old.trial_of({**trial.configuration, "lr": 0.5})


def test_a_copy_of_a_plan_derives_everything_anew(digits: Manifest) -> None:
    plan = planned(digits, seeds="0-1")
    first = (plan.trial_count, [*plan.trials_by_id], plan.examples)
    fewer = plan.model_copy(update={"trials": plan.trials[:1]})
    assert (fewer.trial_count, [*fewer.trials_by_id]) == (1, first[1][:1])
    assert fewer.examples == plan.trials[:1]
    assert (plan.trial_count, [*plan.trials_by_id], plan.examples) == first


# Names


VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "lr": st.floats(1e-12, 1e12),
    "epochs": st.integers(1, 10**9),
    "dropout": st.none() | st.floats(0, 0.99),
    "policy": st.sampled_from(["none", "auto", "rand", "trivial"]),
    "checkpoint_activations": st.booleans(),
    "weight_decay": st.floats(0, 1e300),
}


@settings(deadline=None)
@given(
    st.text(max_size=60),
    st.lists(st.fixed_dictionaries(dict(VALUES)), min_size=1, max_size=30),
    st.sets(st.sampled_from(list(VALUES)), min_size=1),
)
def test_names_are_unique_file_names_whatever_is_swept(
    data: str, points: list[dict[str, Any]], names: set[str]
) -> None:
    swept = [{name: point[name] for name in sorted(names)} for point in points]
    different = {tuple(map(text_of, point.values())): point for point in swept}.values()
    found = [
        trial_id(data, "b0-w1.4-d2-r1.1234", "leaky_relu", "identity_conv", 2**32 - 1, point) for point in different
    ]
    assert len(set(found)) == len(found)
    for name in found:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,127}", name)


def test_the_same_values_have_the_same_name_however_they_are_written(digits: Manifest) -> None:
    ways = (
        {"recipe": {"lr": "1e-3,0.0030"}},
        {"search": {"sweep": "lr=.001,3e-3"}},
        {"recipe": {"lr": [0.001, 0.003]}},
    )
    for fields in ways:
        names = [trial.trial_id for trial in planned(digits, **fields).trials]
        assert names == ["digits-b0-silu-lr0.001-s0", "digits-b0-silu-lr0.003-s0"]


def test_a_long_name_ends_in_a_digest_of_all_that_is_swept(digits: Manifest) -> None:
    recipe = {"lr": "1e-3,3e-3", "epochs": "5,6", "weight_decay": "0.01,0.02", "label_smoothing": "0,0.1"}
    names = [trial.trial_id for trial in planned(digits, recipe=recipe).trials]
    assert len(set(names)) == 16
    assert all(re.fullmatch(r"digits-b0-silu-epochs[56]-lr0\.00[13]-[0-9a-f]{10}-s0", name) for name in names)
    # Frozen: a name is how an experiment's checkpoints and runs are found again.
    assert names[0] == "digits-b0-silu-epochs5-lr0.001-3bd747f7c3-s0"


# Planned sources


def test_a_planned_source_hands_out_each_trial_once_in_order(digits: Manifest) -> None:
    plan = planned(digits, seeds="0-3")
    source = PlannedSource(plan.trials)
    names = [trial.trial_id for trial in plan.trials]
    source.take(names[1])
    assert [trial.trial_id for trial in source.waiting()] == [names[0], *names[2:]]
    with pytest.raises(KeyError):
        source.take(names[1])
    source.ended(names[1], "failed")
    for name in (names[0], *names[2:]):
        assert not source.exhausted
        source.take(name)
    assert source.exhausted
    assert not source.waiting()
