"""Torchvision's networks as baselines: their facts are torchvision's own, their costs those of the real networks."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from effnet_cluster.effnet import BASELINES, VARIANTS, BaselineConfig, complexity, make_network, network_config, variant
from effnet_cluster.effnet.baselines.network import Baseline
from effnet_cluster.effnet.cam import deepest_layer, grad_cam
from effnet_cluster.effnet.memory import estimate
from effnet_cluster.effnet.naming import canonical_name
from effnet_cluster.effnet.networks import config_from_dict
from effnet_cluster.effnet.weights import fits_classifier, guess_source, load_weights

from .helpers import parameter_count

models = pytest.importorskip("torchvision.models")
tracing = pytest.importorskip("effnet_cluster.effnet.baselines.tracing")
pytestmark = pytest.mark.usefixtures("one_thread")
# One of each family that is quick to build.
FEW = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_v2_s", "googlenet", "mnasnet0_5", "mobilenet_v3_small"),
    *("regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11_bn"),
]
TINY = ["mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"]
# What torchvision counts as parameters of its inception_v3 are those of its auxiliary classifier, too.
AUXILIARY = {"inception_v3": 27_161_264 - 23_834_568}


def published(name: str) -> Any:
    return models.get_model_weights(name).IMAGENET1K_V1


def bare(name: str, classes: int = 10) -> Baseline:
    """A network without storage."""
    return Baseline(network_config(name, num_classes=classes), meta=True)  # type: ignore[arg-type]


def images(count: int, *size: int) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def test_they_are_torchvisions_convolutional_classifiers_that_are_not_ours() -> None:
    ours = {"mobilenet_v2", *(f"efficientnet_b{number}" for number in range(8))}
    others = {"regnet_y_128gf"} | {
        name for name in models.list_models(module=models) if name[:3] in ("vit", "swi", "max")
    }
    assert set(BASELINES) == set(tracing.names())
    assert set(BASELINES) == set(models.list_models(module=models)) - ours - others - set(VARIANTS)
    assert not set(BASELINES) & set(VARIANTS)


@pytest.mark.parametrize("name", BASELINES)
def test_parameters_and_macs_are_what_torchvision_says(name: str) -> None:
    meta, config = published(name).meta, BASELINES[name]
    cost = complexity(config)
    assert cost.params == meta["num_params"] - AUXILIARY.get(name, 0)
    assert round(cost.macs / 1e9, 3) == pytest.approx(meta["_ops"], abs=0.0011)
    # Torchvision's EfficientNetV2 needs 33 px only to train with one image at a time.
    assert config.smallest_image == (1 if name.startswith("efficientnet_v2") else meta["min_size"][0])


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(("size", "classes"), [((96, 96), 10), ((97, 131), 3)])
def test_costs_at_other_sizes_are_those_of_the_network(name: str, size: tuple[int, int], classes: int) -> None:
    network = bare(name, classes).eval()
    cost = complexity(network.config, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, *size, device="meta"))
    assert cost.macs == counter.get_total_flops() // 2
    assert cost.params == parameter_count(network)
    assert cost.params == sum(row.params for row in cost.stages)


@pytest.mark.parametrize("name", TINY)
def test_what_autograd_keeps_is_predicted(name: str) -> None:
    network = make_network(network_config(name, num_classes=1000)).train()
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() and tensor.shape[0] == 2:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images(2, 96, 96))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    memory = estimate(network.config, 2, 96).memory
    assert memory.activations == pytest.approx(measured, rel=0.01)
    assert memory.weights == 4 * parameter_count(network)


@pytest.mark.parametrize("name", TINY)
def test_the_facts_are_what_tracing_finds(name: str) -> None:
    facts = BASELINES[name].facts
    assert type(facts).from_dict(json.loads(json.dumps(tracing.trace(name)))) == facts


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "inception_v3", "squeezenet1_0", "densenet121"])
def test_the_smallest_image_is_taken_and_a_smaller_one_is_told(name: str) -> None:
    network, smallest = bare(name).eval(), BASELINES[name].smallest_image
    with torch.no_grad():
        assert network(torch.empty(1, 3, smallest, smallest, device="meta")).shape == (1, 10)
        with pytest.raises(RuntimeError):
            network(torch.empty(1, 3, smallest - 1, smallest - 1, device="meta"))
    complexity(network.config, smallest)
    with pytest.raises(ValueError, match=f"^{name} takes images of at least {smallest} px, not {smallest - 1}$"):
        complexity(network.config, smallest - 1)


@pytest.mark.parametrize("name", FEW)
def test_the_classifier_is_found_and_the_parts_are_the_network_from_its_input_on(name: str) -> None:
    network = bare(name, 7)
    assert network.classifier.weight.shape[:2] == (7, network.config.facts.features)
    parts = network.parts()
    assert network.classifier in parts[-1]
    ordered = [id(p) for part in parts for module in part for p in module.parameters()]
    direct = {id(p) for p in network.network.parameters(recurse=False)}
    assert ordered == [id(p) for p in network.parameters() if id(p) not in direct]
    assert len(parts) > 4


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("resnet18", {"dropout": 0.1}, "torchvision's resnet18 has no dropout; give none, or leave resnet18 out"),
        (
            "vgg11",
            {"stochastic_depth": 0.1},
            "torchvision's vgg11 has no stochastic_depth; give none, or leave vgg11 out",
        ),
        ("resnet18", {"activation": "silu"}, "torchvision's resnet18 has activation relu alone, not silu; give none, "),
        ("resnet18", {"shortcut": "none"}, "torchvision's resnet18 has shortcut residual alone, not none; give none, "),
        ("resnet18", {"num_classes": 0}, "num_classes must be an integer >= 1, not 0"),
        ("resnet18", {"width": 2.0}, "unknown config field 'width'"),
        ("resnet18-w2", {}, "variant 'resnet18-w2': resnet18 is torchvision's and cannot be scaled; write 'resnet18'"),
        ("vit_b_16", {}, "unknown variant 'vit_b_16'; choose from b0, "),
    ],
)
def test_what_a_baseline_has_not_is_one_line(name: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(told)}"):
        network_config(name, **fields)


MOBILENET_STAGES = [
    *([1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]),
]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        (
            "mobilenet_v2-w1.4-d1.4-r1.3",
            lambda: models.MobileNetV2(10, 1.4, [[t, c, math.ceil(1.4 * n), s] for t, c, n, s in MOBILENET_STAGES]),
        ),
        ("resnet50-d0.5", lambda: models.ResNet(models.resnet.Bottleneck, [2, 2, 3, 2], num_classes=10)),
    ],
)
def test_scaled_networks_are_torchvisions_with_the_scaled_arguments(name: str, theirs: Any) -> None:
    """The paper's table 3; a ResNet's width is not among torchvision's arguments."""
    torch.manual_seed(0)
    other, ours = theirs().eval(), make_network(network_config(name, num_classes=10)).eval()
    load_weights(ours, other.state_dict(), "torchvision")
    with torch.inference_mode():
        torch.testing.assert_close(ours(images(2, 64, 64)), other(images(2, 64, 64)), rtol=1e-4, atol=1e-5)
    assert complexity(ours.config).params == parameter_count(other)


def test_torchvisions_names_of_our_networks_give_ours() -> None:
    assert network_config("efficientnet_b3") == variant("b3")
    assert network_config("mobilenet_v2", num_classes=5) == variant("mobilenetv2", num_classes=5)
    assert [canonical_name(name) for name in ("resnet50", "resnet101", "efficientnet_b7")] == [
        "resnet50",
        "resnet101",
        "b7",
    ]


@pytest.mark.parametrize("config", [*BASELINES.values(), VARIANTS["b0"]], ids=lambda config: config.name)
def test_a_config_survives_json(config: Any) -> None:
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_rates_and_momentum_are_the_configs() -> None:
    fields = {"dropout": 0.35, "stochastic_depth": 0.4, "bn_momentum": 0.02}
    network = make_network(network_config("efficientnet_v2_s", **fields))
    theirs = models.efficientnet_v2_s(stochastic_depth_prob=0.4)
    from torchvision.ops import StochasticDepth

    rates, expected = ([m.p for m in each.modules() if isinstance(m, StochasticDepth)] for each in (network, theirs))
    assert rates == expected
    assert max(rates) > 0.35
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.35}
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.02}


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_v2_s"])
def test_the_published_stochastic_depth_is_torchvisions(name: str) -> None:
    from torchvision.ops import StochasticDepth

    network, theirs = make_network(BASELINES[name]), models.get_model(name, weights=None)
    rates, expected = ([m.p for m in each.modules() if isinstance(m, StochasticDepth)] for each in (network, theirs))
    assert rates == expected
    assert sum(rates) > 0


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mnasnet0_5", "squeezenet1_1"])
def test_torchvisions_weights_give_its_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None, num_classes=6).eval()
    ours = make_network(network_config(name, num_classes=6)).eval()
    state = theirs.state_dict()
    assert guess_source(state, ours.config) == "torchvision"
    assert fits_classifier(ours, state, "torchvision")
    load_weights(ours, state, "torchvision")
    with torch.inference_mode():
        assert torch.equal(ours(images(2, 64, 64)), theirs(images(2, 64, 64)))
    again = make_network(ours.config).eval()
    load_weights(again, dict(ours.state_dict()), "effnet")
    assert torch.equal(again.classifier.weight, ours.classifier.weight)
    with pytest.raises(ValueError, match=f"timm has no {name}; its weights are torchvision's"):
        load_weights(again, state, "timm")


def test_another_number_of_classes_keeps_the_new_classifier() -> None:
    state = models.resnet18(weights=None).state_dict()
    ours = make_network(network_config("resnet18", num_classes=4))
    before = ours.classifier.weight.clone()
    assert not fits_classifier(ours, state, "torchvision")
    with pytest.raises(ValueError, match=r"^'fc.weight' of the torchvision state dict has the shape"):
        load_weights(ours, state, "torchvision")
    load_weights(ours, state, "torchvision", keep_classifier=False)
    assert torch.equal(ours.classifier.weight, before)
    assert torch.equal(ours.network.conv1.weight, state["conv1.weight"])  # type: ignore[union-attr]


def test_weights_of_auxiliary_classifiers_are_left_out_and_old_names_of_densenet_known() -> None:
    ours = bare("googlenet", 1000)
    with torch.device("meta"):
        theirs = models.googlenet(weights=None, init_weights=True)
        dense = models.densenet121(weights=None).state_dict()
    assert "aux1.fc1.weight" in theirs.state_dict()
    load_weights(ours, theirs.state_dict(), "torchvision")
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in dense.items()}
    assert old.keys() != dense.keys()
    load_weights(bare("densenet121", 1000), old, "torchvision")
    with pytest.raises(ValueError, match=r"^googlenet has no use for 'more.weight' of the torchvision state dict"):
        load_weights(ours, {**theirs.state_dict(), "more.weight": torch.zeros(1)}, "torchvision")


def test_grad_cam_explains_at_the_deepest_block_that_shows_a_place() -> None:
    torch.manual_seed(0)
    network = make_network(network_config("resnet18", num_classes=3)).eval()
    assert isinstance(network, Baseline)
    inner: Any = network.network
    assert deepest_layer(network, 224) is inner.layer4[1]
    assert deepest_layer(network, 64) is inner.layer2[1]
    maps = grad_cam(network, images(2, 64, 64), 1, deepest_layer(network, 64))
    assert maps.raw.shape == (2, 8, 8)
    assert bool(maps.has_contrast.all())
    assert isinstance(deepest_layer(bare("vgg11"), 64), nn.ReLU)  # and not the pooling that repeats 2 x 2 positions
    # Without a layer it is the last map, which meets only the mean and the linear layer: Zhou et al.'s map.
    last, found = grad_cam(network, images(2, 96, 96), 1), []
    inner.layer4.register_forward_hook(lambda module, inputs, output: found.append(output))
    network(images(2, 96, 96))
    plain = torch.einsum("nchw,c->nhw", found[0], network.classifier.weight[1]).relu() / 9
    torch.testing.assert_close(last.raw, plain, rtol=1e-4, atol=1e-6)


def test_checkpointed_activations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^activations of torchvision's resnet18 cannot be checkpointed$"):
        make_network(BASELINES["resnet18"], checkpoint_activations=True)
    assert isinstance(BASELINES["resnet18"], BaselineConfig)
