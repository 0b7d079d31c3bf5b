"""Studies: the sweep that a preset makes, what its variants stand for, and how many seeds it takes."""

from __future__ import annotations

from typing import Any

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import complexity, network_config
from effnet_cluster.orchestration.forecast import Forecast, variant_epochs
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.preflight import notes
from effnet_cluster.orchestration.sizing.allocation import share_out
from effnet_cluster.orchestration.sizing.packing import Node
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.studies.presets import STUDIES, comparisons, fill
from effnet_cluster.orchestration.studies.roles import asked

BASE = "b0-w0.5-d0.5"


def spec_of(study: str, base: str = "b0", **fields: Any) -> ExperimentSpec:
    return ExperimentSpec.parse({"name": "x", **fill(study, fields, base.split(","))})


def macs(name: str) -> int:
    config = network_config(name)
    return complexity(config, config.resolution).macs


@pytest.mark.parametrize("base", ["b0", BASE, "mobilenetv2", "resnet50"])
def test_scaling_spends_the_same_on_each_dimension(base: str) -> None:
    study = asked("scaling", spec_of("scaling", base).variants)
    kinds = [role.kind for role in study.variants.values()]
    assert kinds == ["base", *["width", "depth", "resolution", "compound"] * 2]
    cost = {name: macs(name) / macs(base) for name in study.variants}
    names = list(study.variants)
    for phi, step in enumerate((names[1:5], names[5:]), 1):
        for name in step:
            # As near as whole blocks and eights of channels let it; a network of few blocks grows in coarse steps.
            assert cost[name] == pytest.approx(cost[step[-1]], rel=0.25 if base == BASE else 0.12), name
        assert cost[step[-1]] > 1.9**phi


def test_coefficients_double_the_multiply_adds_and_hold_the_papers() -> None:
    study = asked("coefficients", spec_of("coefficients").variants)
    triples = {name: role for name, role in study.variants.items() if role.kind == "triple"}
    assert next(iter(study.variants)) == "b0"
    assert len(triples) == len(study.variants) - 1
    for name, role in triples.items():
        width, depth, side = (dict(_factors(name)).get(sign, 1.0) for sign in "wdr")
        assert depth * width**2 * side**2 == pytest.approx(2, abs=0.1001)
        assert role.label == f"α {depth:g}, β {width:g}, γ {side:g}"


def _factors(name: str) -> list[tuple[str, float]]:
    return [(part[0], float(part[1:])) for part in name.split("-")[1:]]


@pytest.mark.parametrize(
    ("study", "variant", "expected"),
    [
        ("scaling", "b0-w1.4", ("width", 1.4)),
        ("scaling", "b0-d2", ("depth", 2.0)),
        ("scaling", "b0-r1.5", ("resolution", 1.5)),
        ("scaling", "b2", ("compound", 1.1**2 * 1.2 * (260 / 224) ** 2)),
        ("scaling", "resnet18", ("", 1.0)),
        ("family", "b0-d2", ("", 1.0)),
        ("shortcuts", "b0-d1.4", ("depth", 1.4)),
    ],
)
def test_what_a_variant_stands_for_is_read_off_its_name(study: Any, variant: str, expected: tuple[str, float]) -> None:
    role = asked(study, ("b0", variant)).variants[variant]
    assert (role.kind, role.factor) == (expected[0], pytest.approx(expected[1], rel=0.01))


def test_each_kind_of_network_has_its_own_base() -> None:
    """The paper's table 3 scales two older networks."""
    spec = spec_of("scaling", "mobilenetv2,resnet50")
    roles = asked("scaling", spec.variants).variants
    assert len(roles) == 18
    for name, role in roles.items():
        assert role.base == name.split("-")[0]
        assert (role.kind == "base") == (role.base == name)


def test_what_is_compared_is_swept_beside_what_is_tuned() -> None:
    transfer = spec_of("transfer", "tf_lite0,tf_lite1")
    assert {name: domain.ends for name, domain in transfer.search.sweep.items()} == {
        "lr": (0.001, 0.004, 0.016),
        "pretrained": (False, True),
    }
    assert comparisons(transfer) == 2
    for study in STUDIES.values():
        assert set(study.compared) <= set(study.fields.get("recipe", {}))


def test_every_study_is_a_specification_and_a_persons_settings_win() -> None:
    for name in STUDIES:
        spec = spec_of(name, BASE)
        assert spec.study == name
        assert (comparisons(spec) == 0) == (name == "cam")
    own = spec_of("shortcuts", shortcuts="none,residual", variants="b1", execution={"workers": 2}, seeds="3")
    assert (own.shortcuts, own.variants, own.seeds) == (("none", "residual"), ("b1",), (3,))
    assert (own.execution.gradient_norms, str(own.execution.workers)) == (True, "2")
    assert not spec_of("shortcuts", execution={"gradient_norms": "off"}).execution.gradient_norms


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({}, [0.001, 0.004, 0.016]),
        ({"recipe": "modern"}, [0.00025, 0.001, 0.004]),
        ({"recipe": {"lr": "0.1"}}, [0.025, 0.1, 0.4]),
        ({"recipe": {"lr": "0.1,0.2"}}, [0.1, 0.2]),
        ({"search": {"sweep": {"lr": "0.1,0.2"}}}, [0.1, 0.2]),
        ({"search": {"sweep": ["lr=0.1,0.2"]}}, [0.1, 0.2]),
    ],
)
def test_each_activation_is_tried_with_rates_around_the_recipes(fields: dict[str, Any], rates: list[float]) -> None:
    assert list(spec_of("activations", **fields).search.sweep["lr"].ends) == rates


def test_too_few_seeds_and_networks_that_are_the_same_are_told_before(digits: Manifest) -> None:
    def told(**fields: Any) -> list[str]:
        return notes(make_plan(spec_of("shortcuts", **fields), digits))

    variants = "b0-w0.25-d0.25,b0-w0.25-d0.35,b0-w0.25-d0.5"
    same, seeds = told(variants=variants, seeds="0-5")
    assert same == "b0-w0.25-d0.35 and b0-w0.25-d0.5 are the same network, by rounding"
    assert "6 seeds cannot tell any of 6 compared pairs apart: the smallest p is 0.19;" in seeds
    assert "--seeds 0-7" in seeds
    assert told(variants="b0-w0.25,b0-w0.5", seeds="0-7") == []


def planned(digits: Manifest, **fields: Any) -> Plan:
    return make_plan(spec_of("family", variants="b0-w0.25-d0.25,b0-w0.5,resnet18", seeds="0", **fields), digits)


@pytest.mark.parametrize("fair", ["macs", "time"])
def test_smaller_variants_train_longer_where_cost_is_to_be_equal(digits: Manifest, fair: Any) -> None:
    plan = planned(digits, recipe={"epochs": 5})
    node = Node("n", "10.0.0.1", 8, 0, 64 * 2**30)
    forecast = Forecast.of(plan, share_out([node], plan.spec.execution, plan.typical))
    assert variant_epochs(plan, "epochs", lambda _: forecast) == {}
    epochs = variant_epochs(plan, fair, lambda _: forecast)
    assert epochs["resnet18"] == 5
    fair_plan = planned(digits, recipe={"epochs": 5}, variant_epochs=epochs)
    assert {trial.variant: trial.recipe.epochs for trial in fair_plan.trials} == epochs

    def cost(trial: Any) -> float:
        each = trial.macs if fair == "macs" else forecast.costs[trial.trial_id].step_seconds
        return float(each * trial.recipe.epochs)

    most = max(map(cost, plan.trials))
    for trial in fair_plan.trials:
        assert abs(cost(trial) - most) <= cost(trial) / trial.recipe.epochs / 2 * 1.01  # half an epoch
