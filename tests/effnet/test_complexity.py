"""The arithmetic against torch's own counters, real parameters, saved tensors and the paper's numbers."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effnet_cluster.effnet import VARIANTS, EfficientNet, EfficientNetConfig, complexity, variant
from effnet_cluster.effnet.activations import ACTIVATION_NAMES
from effnet_cluster.effnet.stages import SHORTCUTS, StageConfig

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


OTHERS = ["lite3", "tf_lite2", "mobilenetv2", "resnet50"]

# 10⁶ parameters: d-li14/efficientnet-lite.pytorch for Lite, torchvision for the others
PARAMS = {
    "lite0": 4.652,
    "lite1": 5.417,
    "lite2": 6.092,
    "lite3": 8.197,
    "lite4": 13.007,
    "tf_lite4": 13.007,
    "tf_b0": 5.289,
    "mobilenetv2": 3.505,
    "resnet50": 25.557,
}

# Width, depth, resolution, 10⁹ FLOPs, and the share by which we are off: the paper does not say how it rounds a ResNet.
TABLE_3 = [
    ("mobilenetv2", 1, 1, 1, 0.3, 0),
    ("mobilenetv2", 1, 4, 1, 1.2, 0),
    ("mobilenetv2", 2, 1, 1, 1.1, 0),
    ("mobilenetv2", 1, 1, 2, 1.2, 0),
    ("resnet50", 1, 1, 1, 4.1, 0),
    ("resnet50", 1, 1, 2, 16.4, 0),
    ("resnet50", 1, 4, 1, 16.2, 0.11),
    ("resnet50", 2, 1, 1, 14.7, 0.1),
    ("resnet50", 1.2, 1.4, 1.3, 16.7, 0.05),
]


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


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_networks_cost_what_torch_counts(name: str, shortcut: str) -> None:
    config = variant(name, shortcut=shortcut, num_classes=10)
    assert complexity(config, (65, 96)).macs == counted_macs(config, (65, 96))
    assert complexity(config).params == parameter_count(meta_model(config))


@pytest.mark.parametrize("phi", [0, 1, 2.5])
@pytest.mark.parametrize("name", ["mobilenetv2", "resnet50"])
def test_scaled_backbones_cost_what_torch_counts(name: str, phi: float) -> None:
    config = variant(name).compound_scaled(phi)
    assert complexity(config, 64).macs == counted_macs(config, (64, 64))
    assert complexity(config).params == parameter_count(meta_model(config))


@pytest.mark.parametrize(("name", "params"), PARAMS.items())
def test_the_other_networks_have_the_published_parameters(name: str, params: float) -> None:
    assert complexity(VARIANTS[name]).params / 1e6 == pytest.approx(params, abs=0.0006)


@pytest.mark.parametrize(("name", "width", "depth", "resolution", "flops", "off"), TABLE_3)
def test_scaling_other_baselines_costs_what_the_papers_table_3_says(
    name: str, width: float, depth: float, resolution: float, flops: float, off: float
) -> None:
    macs = complexity(VARIANTS[name].scaled(width, depth, round(224 * resolution))).macs
    assert macs / 1e9 == pytest.approx(flops, abs=0.051 + off * flops)


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


# Stages that no published network has: a strided convolution as the first layer of a block, where "same" copies what
# the block reads, after every kind of producer; and a stride at which some sizes need no padding.
ODD_STAGES = (
    StageConfig(expand=1, kernel=3, stride=2, channels=8, repeats=1),
    StageConfig(expand=2, kernel=3, stride=2, channels=8, repeats=1, block="bottleneck"),
    StageConfig(expand=1, kernel=5, stride=2, channels=16, repeats=2),
    StageConfig(expand=2, kernel=3, stride=3, channels=24, repeats=1),
)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize(
    ("base", "size"),
    [
        *((base, (64, 45)) for base in ("tf_lite0", "tf_b0", "mobilenetv2", "resnet50", "resnet50-same")),
        *((base, size) for base in ("odd", "odd-pool") for size in ((64, 45), (96, 72))),
    ],
)
def test_activation_bytes_of_the_other_networks(
    base: str, activation: str, shortcut: str, size: tuple[int, int]
) -> None:
    options: dict[str, Any] = {"width": 0.3, "depth": 0.5, "num_classes": 3}
    if base == "resnet50-same":
        options |= {"padding": "same"}
    if base.startswith("odd"):
        options |= {"padding": "same", "stages": ODD_STAGES, "se_ratio": 0, "stem_pool": base == "odd-pool"}
    name = {"odd": "b0", "odd-pool": "b0", "resnet50-same": "resnet50"}.get(base, base)
    config = variant(name, activation=activation, shortcut=shortcut, **options)
    model = EfficientNet(config)
    per_image = (saved_bytes(model, 4, size) - saved_bytes(model, 2, size)) / 2
    assert complexity(config, size).activation_bytes == pytest.approx(per_image, rel=1e-3)


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


def test_the_rows_of_resnet_50_are_its_papers_table_1() -> None:
    rows = complexity(VARIANTS["resnet50"]).stages
    assert [(row.operator, row.resolution[0], row.channels, row.layers) for row in rows] == [
        ("Conv7x7 & MaxPool", 224, 64, 1),
        ("Bottleneck, k3x3", 56, 256, 3),
        ("Bottleneck, k3x3", 56, 512, 4),
        ("Bottleneck, k3x3", 28, 1024, 6),
        ("Bottleneck, k3x3", 14, 2048, 3),
        ("Pooling & FC", 7, 2048, 1),
    ]


@pytest.mark.parametrize(("name", "shortcut"), [("b1", "identity_conv"), ("resnet50", "residual")])
def test_every_row_counts_its_own_modules(name: str, shortcut: str) -> None:
    config = variant(name, shortcut=shortcut, activation="prelu")
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
