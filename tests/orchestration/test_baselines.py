"""Torchvision's networks as variants: planned beside EfficientNets, refused in one line, trained by the same loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import BASELINES, complexity, make_network, network_config
from effnet_cluster.effnet.baselines.network import Baseline
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.preflight import worker_memory
from effnet_cluster.orchestration.sizing.cost import CostModel
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import trial_params
from effnet_cluster.orchestration.tracking.trained import best_of, export_trained
from effnet_cluster.orchestration.training.assembly import assemble
from effnet_cluster.orchestration.training.checkpoint_store import CheckpointStore
from effnet_cluster.orchestration.training.collectives import lone_rank
from effnet_cluster.orchestration.training.errors import PreemptedError
from effnet_cluster.orchestration.training.job import TrialPlan
from effnet_cluster.orchestration.training.measured import kind_of
from effnet_cluster.orchestration.training.micro_batch import fitting_images, is_normalizable
from effnet_cluster.orchestration.training.networks import build_network, set_training_mode
from effnet_cluster.orchestration.training.optimizers import make_optimizer

from ..differences import differences
from .trainings import ALONE, Memory, few_digits, final_state, make_job, stop_at, train

models = pytest.importorskip("torchvision.models")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_digits(tmp_path_factory.mktemp("few"))


def plan_of(data: Manifest, variants: str, **fields: Any) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": variants, **fields}), data)


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    times = ("seconds", "epoch_seconds", "waited")
    return {**state, "progress": {name: value for name, value in state["progress"].items() if name not in times}}


def test_a_sweep_of_both_kinds_is_one_plan(few: Manifest) -> None:
    plan = plan_of(few, "b0,resnet18,mobilenet_v3_large,efficientnet_b1,squeezenet1_1", seeds=[0, 1])
    assert [trial.trial_id for trial in plan.trials[::2]] == [
        *("few-b0-silu-s0", "few-resnet18-relu-s0", "few-mobilenet_v3_large-hardswish-s0", "few-b1-silu-s0"),
        "few-squeezenet1_1-relu-s0",
    ]
    for trial in plan.trials:
        cost = complexity(network_config(trial.variant, num_classes=3), trial.image_size)
        assert (trial.params, trial.macs, trial.image_size) == (
            cost.params,
            cost.macs,
            32,
        )
        assert TrialPlan.model_validate_json(trial.model_dump_json()) == trial
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert len({kind_of(trial) for trial in plan.trials}) == 4


def test_an_epoch_and_its_memory_are_predicted(few: Manifest) -> None:
    for trial in plan_of(few, "resnet18,squeezenet1_1").trials:
        cost = CostModel(val_samples=21).predict(trial, 1, 1, False, node_memory=2**33)
        assert cost.seconds > 0
        assert worker_memory(trial, 1) > 16 * trial.params
        fitting = fitting_images(trial.model, 32, 2**30, checkpoint_activations=False, half=False)
        assert 1 < fitting < 2**30 // (32 * 32 * 12)


@pytest.mark.parametrize(
    ("variants", "fields", "told"),
    [
        (
            "b0,inception_v3",
            {},
            "inception_v3 takes images of at least 75 px, not 40; give --image-size 75 or more, or",
        ),
        ("alexnet", {"image_size": 62}, "alexnet takes images of at least 63 px, not 62; give --image-size 63 or"),
        ("b0,resnet18", {"activations": "silu"}, "torchvision's resnet18 has activation relu alone, not silu; give"),
        ("resnet18", {"shortcuts": "none"}, "torchvision's resnet18 has shortcut residual alone, not none; give none"),
        ("resnet18", {"recipe": {"dropout": 0.3}}, "torchvision's resnet18 has no dropout; give none, or leave"),
        (
            "b0,resnet18",
            {"recipe": {"checkpoint_activations": True}},
            "--checkpoint-activations is not for torchvision's resnet18; leave out one of them",
        ),
        ("vit_b_16", {}, "unknown variant 'vit_b_16'; choose from b0, "),
        (
            "resnet18-w2",
            {},
            "variant 'resnet18-w2': resnet18 is torchvision's and cannot be scaled; write 'resnet18'",
        ),
    ],
)
def test_what_a_baseline_cannot_do_is_refused_before_anything_starts(
    few: Manifest, variants: str, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(few, variants, **fields)
    assert str(caught.value).startswith(told)


def test_a_search_is_refused_where_any_value_would_be(few: Manifest) -> None:
    search = {"search": {"method": "optuna", "trials": 3, "sweep": {"dropout": "0..0.3"}}}
    with pytest.raises(UserError, match=r"^torchvision's resnet18 has no dropout"):
        plan_of(few, "resnet18", **search)
    assert plan_of(few, "mobilenet_v3_small", **search).trials == ()


def test_its_own_activation_may_be_named_and_rates_set(few: Manifest) -> None:
    (trial,) = plan_of(few, "mobilenet_v3_small", activations="hardswish", recipe={"dropout": 0.5}).trials
    assert (trial.model.dropout, trial.model.bn_momentum) == (0.5, 0.1)


def test_its_parameters_are_logged(few: Manifest, tmp_path: Path) -> None:
    params = trial_params(make_job(few, tmp_path, variant="resnet18"))
    assert (params["variant"], params["activation"], params["dropout"]) == ("resnet18", "relu", 0.0)
    assert "width" not in params
    assert trial_params(make_job(few, tmp_path))["width"] == 0.25


@pytest.mark.parametrize(
    ("variant", "recipe"),
    [
        ("mobilenet_v3_small", {"ema": 0.9}),
        ("shufflenet_v2_x0_5", {"backbone_lr": 0.1, "optimizer": "rmsprop"}),
        ("squeezenet1_1", {"micro_batch": 1, "lr": 1e-4}),
        ("resnet18", {"optimizer": "sgd", "freeze_backbone": True}),
        ("mnasnet0_5", {"ema": 0.5}),
        ("mobilenet_v2-w0.25-d0.5", {"optimizer": "rmsprop"}),
        ("resnet50-w0.25-d0.5", {"optimizer": "sgd"}),
    ],
)
def test_a_training_goes_on_to_the_same_bits(
    variant: str, recipe: dict[str, Any], few: Manifest, tmp_path: Path
) -> None:
    calm = make_job(few, tmp_path / "calm", variant=variant, epochs=1, **recipe)
    train(calm)
    job, sink = make_job(few, tmp_path / "job", variant=variant, epochs=1, **recipe), Memory()
    with pytest.raises(PreemptedError):
        train(job, sink, should_stop=stop_at(2))
    train(job, sink)
    assert differences(without_times(final_state(calm)), without_times(final_state(job))) == []
    assert len(sink.steps) == 4
    trained, _ = best_of(CheckpointStore(calm.storage))
    assert isinstance(trained.network, Baseline) == (variant in BASELINES)
    assert trained.facts.config == calm.trial.model


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_trained_baseline_is_exported(form: Any, few: Manifest, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    job = make_job(few, tmp_path, variant="squeezenet1_1", epochs=1, lr=1e-4)
    train(job)
    trained, _ = best_of(CheckpointStore(job.storage))
    assert export_trained(trained, tmp_path / f"model.{form}", form, logits=True) < 1e-3


@pytest.mark.parametrize("variant", ["resnet18", "squeezenet1_1"])
def test_the_head_starts_nearly_at_zero_and_is_trained_alone_where_the_rest_is_frozen(
    variant: str, few: Manifest, tmp_path: Path
) -> None:
    trial = make_job(few, tmp_path, variant=variant, freeze_backbone=True).trial
    network, _ = build_network(trial)
    assert network.classifier.weight.shape[0] == 3
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not network.classifier.bias.any()  # type: ignore[union-attr]
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {f"{trial.model.classifier_name}.{leaf}" for leaf in ("weight", "bias")}
    set_training_mode(network)
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("variant", ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_learning_rates_grow_from_the_first_layer_to_the_classifier(
    variant: str, few: Manifest, tmp_path: Path
) -> None:
    trial = make_job(few, tmp_path, variant=variant, backbone_lr=0.01).trial
    network, _ = build_network(trial)
    groups = make_optimizer(network, trial.recipe, torch.device("cpu")).param_groups
    factor = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
    parameters = list(network.parameters())
    assert len(factor) == len(parameters)
    factors = [factor[id(parameter)] for parameter in parameters]
    assert factors == sorted(factors)
    assert factors[0] == pytest.approx(0.01)
    assert factor[id(network.classifier.weight)] == 1 > factors[-3]


def test_one_image_at_a_time_needs_no_variance_without_batch_norm(few: Manifest, tmp_path: Path) -> None:
    for variant, allowed in (("squeezenet1_1", True), ("mobilenet_v3_large", False)):
        (trial,) = plan_of(few, variant).trials
        assert is_normalizable(trial, 1, 1) == allowed
    with pytest.raises(UserError, match="leaves BatchNorm one value per channel, as the last feature map of 32 px"):
        make_job(few, tmp_path, variant="resnet18", micro_batch=1)


def test_it_runs_in_channels_last_and_synchronised_norms_are_refused_without_gpus(
    few: Manifest, tmp_path: Path
) -> None:
    job = make_job(few, tmp_path, variant="resnet18", compile=True)
    with lone_rank():
        parts = assemble(job, ALONE, ("0", "1", "2"), None)
    assert next(parts.network.parameters()).is_contiguous(memory_format=torch.channels_last)
    with lone_rank(), pytest.raises(UserError, match="--sync-bn needs GPUs"):
        assemble(make_job(few, tmp_path, variant="resnet18", sync_bn=True), ALONE, ("0", "1", "2"), None)


def test_it_starts_from_torchvisions_weights_in_the_cache(few: Manifest, hub_cache: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    torch.save(state, hub_cache / models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    for recipe in ({"name": "transfer"}, {"weights": str(next(hub_cache.iterdir()))}):
        (trial,) = plan_of(few, "resnet18", recipe=recipe).trials
        network, _ = build_network(trial)
        assert isinstance(network, Baseline)
        assert torch.equal(network.network.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])  # type: ignore[index]
        assert network.classifier.weight.shape == (3, 512)


def test_a_fresh_network_is_the_seeds() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(make_network(BASELINES["mobilenet_v3_small"]).state_dict())
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())
