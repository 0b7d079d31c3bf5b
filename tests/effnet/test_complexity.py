"""The arithmetic against torch's own counters, real parameters, saved tensors and the paper's numbers."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effnet_cluster.effnet import (
    ACTIVATION_NAMES,
    SHORTCUTS,
    VARIANTS,
    EfficientNet,
    EfficientNetConfig,
    complexity,
    variant,
)

from .helpers import meta_model, parameter_count

# 10⁹ multiply-accumulates at the variant's resolution, as published by torchvision (timm for B2, at 260 pixels)
GMACS = {
    "b0": 0.386,
    "b1": 0.687,
    "b2": 0.994,
    "b3": 1.827,
    "b4": 4.394,
    "b5": 10.266,
    "b6": 19.068,
    "b7": 37.746,
}


def counted_macs(config: EfficientNetConfig, size: tuple[int, int]) -> int:
    model = meta_model(config).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.empty(1, 3, *size, device="meta"))
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return int(flops) // 2


def saved_bytes(model: EfficientNet, batch: int, size: tuple[int, int]) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass of a batch."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randn(batch, 3, *size))
    assert logits.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", GMACS)
def test_macs_are_the_published(name: str) -> None:
    assert complexity(VARIANTS[name]).macs / 1e9 == pytest.approx(GMACS[name], abs=0.0006)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("name", ["b0", "b3", "b7"])
def test_macs_equal_torchs_flop_counter(name: str, shortcut: str) -> None:
    config = variant(name, shortcut=shortcut, num_classes=10)
    assert complexity(config, (65, 96)).macs == counted_macs(config, (65, 96))


def test_macs_without_squeeze_and_excitation_equal_torchs_flop_counter() -> None:
    config = variant("b0", se_ratio=0)
    assert complexity(config).macs == counted_macs(config, (224, 224))


@pytest.mark.parametrize("activation", ["silu", "prelu"])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("name", GMACS)
def test_params_equal_the_models(name: str, shortcut: str, activation: str) -> None:
    config = variant(name, shortcut=shortcut, activation=activation, num_classes=5)
    assert complexity(config).params == parameter_count(meta_model(config))


@pytest.mark.parametrize(
    "options",
    [
        *({"activation": activation} for activation in ACTIVATION_NAMES),
        {"shortcut": "none"},
        {"shortcut": "identity_conv"},
        {"se_ratio": 0},
        {"se_ratio": 0, "activation": "relu6"},
        {"dropout": 0.0, "stochastic_depth": 0.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_activation_bytes_are_what_autograd_keeps(options: dict[str, Any]) -> None:
    """The difference between two batch sizes leaves out what does not grow with the batch: the weights, say."""
    config = variant("b0", **({"width": 0.5, "num_classes": 3} | options))
    model = EfficientNet(config)
    per_image = (saved_bytes(model, 5, (45, 64)) - saved_bytes(model, 2, (45, 64))) / 3
    assert complexity(config, (45, 64)).activation_bytes == pytest.approx(per_image, rel=1e-3)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_the_stages_add_up(shortcut: str) -> None:
    total = complexity(variant("b2", shortcut=shortcut))
    assert sum(row.params for row in total.stages) == total.params
    assert sum(row.macs for row in total.stages) == total.macs
    assert sum(row.activation_bytes for row in total.stages) == total.activation_bytes


def test_the_stages_of_b0_are_the_papers_table_1() -> None:
    rows = complexity(VARIANTS["b0"]).stages
    assert [(row.stage, row.operator, row.resolution[0], row.channels, row.layers) for row in rows] == [
        (1, "Conv3x3", 224, 32, 1),
        (2, "MBConv1, k3x3", 112, 16, 1),
        (3, "MBConv6, k3x3", 112, 24, 2),
        (4, "MBConv6, k5x5", 56, 40, 2),
        (5, "MBConv6, k3x3", 28, 80, 3),
        (6, "MBConv6, k5x5", 14, 112, 3),
        (7, "MBConv6, k5x5", 14, 192, 4),
        (8, "MBConv6, k3x3", 7, 320, 1),
        (9, "Conv1x1 & Pooling & FC", 7, 1280, 1),
    ]


def test_every_row_counts_its_own_modules() -> None:
    config = variant("b1", shortcut="identity_conv", activation="prelu")
    model = meta_model(config)
    parts = [parameter_count(part) for part in (model.stem, *model.stages, model.head)]
    parts[-1] += parameter_count(model.classifier)
    assert [row.params for row in complexity(config).stages] == parts


def test_the_image_size_is_the_configs_unless_given() -> None:
    config = VARIANTS["b0"]
    assert complexity(config) == complexity(config, 224) == complexity(config, (224, 224))
    assert complexity(config, (224, 112)).macs < complexity(config).macs
    assert complexity(config, 64).params == complexity(config).params


@pytest.mark.parametrize("size", [0, -1, (224,), (224, 0), (1, 2, 3), 1.5, "224"])
def test_an_impossible_image_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match=r"^image_size must be a positive integer or a pair"):
        complexity(VARIANTS["b0"], size)
