"""The named networks besides B0 to B7: their published numbers, BatchNorm presets, and the compound rule on them."""

import json
import re
from typing import Any

import pytest
import torch
from torch import nn

from effnet_cluster.effnet import VARIANTS, EfficientNet, EfficientNetConfig, variant
from effnet_cluster.effnet.stages import StageConfig
from effnet_cluster.effnet.variants import NORMS

from .helpers import meta_model


def test_the_families_are_complete_and_named_alike() -> None:
    families = {"b": 8, "lite": 5, "tf_b": 8, "tf_lite": 5}
    names = [f"{family}{number}" for family, count in families.items() for number in range(count)]
    assert list(VARIANTS) == [*names, "mobilenetv2", "resnet50"]
    assert all(config.name == name for name, config in VARIANTS.items())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("tf_")])
def test_a_tf_variant_differs_only_in_padding_norm_and_crop(name: str) -> None:
    ours, twin = VARIANTS[name].to_dict(), VARIANTS[name.removeprefix("tf_")].to_dict()
    assert {key for key in ours if ours[key] != twin[key]} <= {
        "name",
        "padding",
        "bn_momentum",
        "bn_eps",
        "eval_resize",
    }
    assert (ours["padding"], ours["bn_momentum"], ours["bn_eps"]) == ("same", 0.01, 1e-3)
    assert ours["eval_resize"] == ours["resolution"] + 32


@pytest.mark.parametrize("number", range(5))
def test_lite_scales_neither_stem_nor_head_nor_the_ends_depth(number: int) -> None:
    config = VARIANTS[f"lite{number}"]
    assert (config.scaled_stem_channels, config.scaled_head_channels) == (32, 1280)
    twin = VARIANTS[f"b{number}"]
    layers, twin_layers = ([sum(b.stage == s for b in c.blocks) for s in range(7)] for c in (config, twin))
    assert layers == [1, *twin_layers[1:-1], 1]
    # All widths but the ends' are scaled, the first stage's included.
    assert [block.out_channels for block in config.blocks if block.stage in (0, 6)] == [
        next(block.out_channels for block in twin.blocks if block.stage == stage) for stage in (0, 6)
    ]
    assert not any(block.squeeze_channels for block in config.blocks)


@pytest.mark.parametrize(("name", "module"), [("mobilenetv2", "mobilenet_v2"), ("resnet50", "resnet50")])
def test_other_backbones_have_torchvisions_parameters_to_the_unit(name: str, module: str) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = getattr(models, module)()
    ours = meta_model(VARIANTS[name].compound_scaled(0))
    assert sorted(p.numel() for p in ours.parameters()) == sorted(p.numel() for p in theirs.parameters())


def test_a_bottleneck_keeps_its_ratio_at_every_width() -> None:
    for width in (0.4, 1.1, 1.21, 2.0):
        blocks = variant("resnet50", width=width).blocks
        assert all(block.out_channels == 4 * block.expanded_channels for block in blocks)
        assert all(block.expanded_channels % 8 == 0 for block in blocks)
    assert [block.projects for block in VARIANTS["resnet50"].blocks] == [
        *(True, False, False),
        *(True, False, False, False),
        *(True, False, False, False, False, False),
        *(True, False, False),
    ]


@pytest.mark.parametrize("name", ["b0", "mobilenetv2", "resnet50", "lite0"])
def test_phi_0_changes_only_the_name(name: str) -> None:
    scaled = VARIANTS[name].compound_scaled(0)
    assert scaled.name == f"{name}-phi0"
    assert scaled.to_dict() | {"name": name} == VARIANTS[name].to_dict()


def test_phi_multiplies_the_present_coefficients() -> None:
    scaled = variant("resnet50", width=2.0).compound_scaled(2)
    assert (scaled.width, scaled.depth, scaled.resolution) == pytest.approx((2.42, 1.44, 296))
    assert scaled.name == "resnet50-phi2"
    assert VARIANTS["b0"].compound_scaled(1, alpha=2, beta=1.5, gamma=3).resolution == 672


@pytest.mark.parametrize(
    ("name", "norm", "expected"),
    [
        ("b0", None, (0.1, 1e-5)),
        ("b5", None, (0.01, 1e-3)),
        ("b0", "paper", (0.01, 1e-3)),
        ("b7", "torch", (0.1, 1e-5)),
        ("b0", "torchvision", (0.1, 1e-5)),
        ("tf_b0", "torchvision", (0.1, 1e-5)),
        ("tf_b6", "torchvision", (0.01, 1e-3)),
        ("lite2", "paper", (0.01, 1e-3)),
        ("resnet50", "paper", (0.01, 1e-3)),
    ],
)
def test_a_preset_sets_every_batch_norm(name: str, norm: str | None, expected: tuple[float, float]) -> None:
    model = meta_model(variant(name, norm=norm, num_classes=2))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 40
    assert {(module.momentum, module.eps) for module in norms} == {expected}


def test_a_single_override_wins_over_the_preset() -> None:
    config = variant("b0", norm="paper", bn_momentum=0.1)
    assert (config.bn_momentum, config.bn_eps) == (0.1, 1e-3)
    assert variant("b0", norm="torch") == VARIANTS["b0"]
    assert NORMS["paper"] == (0.01, 1e-3)


@pytest.mark.parametrize("preset", ["torch", "paper"])
def test_the_running_statistics_move_by_the_presets_momentum(preset: str) -> None:
    """After n steps on one batch they are 1 - (1 - momentum)ⁿ of the way to its statistics."""
    torch.manual_seed(0)
    model = EfficientNet(variant("b0", norm=preset, depth=0.1, width=0.3, num_classes=2))
    images = torch.randn(4, 3, 32, 32)
    features = model.stem.conv(images)
    momentum, eps = NORMS[preset]
    for _ in range(5):
        model(images)
    share = 1 - (1 - momentum) ** 5
    mean, var = features.mean((0, 2, 3)), features.var((0, 2, 3))
    torch.testing.assert_close(model.stem.norm.running_mean, share * mean)
    torch.testing.assert_close(model.stem.norm.running_var, 1 + share * (var - 1))
    normalised = (features - mean[:, None, None]) / (features.var((0, 2, 3), correction=0) + eps).sqrt()[:, None, None]
    torch.testing.assert_close(model.stem.norm(features), normalised, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["b0", "tf_lite0", "mobilenetv2", "resnet50"])
def test_every_convolution_of_a_model_starts_with_variance_2_over_fan_out(name: str) -> None:
    """A weight over its deviation is standard normal: the squares of n of them have the mean 1, with variance 2 / n."""
    torch.manual_seed(0)
    model = EfficientNet(variant(name, num_classes=2))
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) > 48
    for conv in convs:
        fan_out = conv.kernel_size[0] ** 2 * conv.out_channels // conv.groups
        if conv.groups > 1:
            assert fan_out == conv.kernel_size[0] ** 2
        squares = conv.weight.detach().double() ** 2 * fan_out / 2
        # Six deviations: over these some 300 layers, a right one fails in one of 10⁶ runs.
        assert abs(squares.mean().item() - 1) < 6 * (2 / squares.numel()) ** 0.5, conv
    pooled = torch.cat(
        [c.weight.detach().flatten() * (c.kernel_size[0] ** 2 * c.out_channels / c.groups / 2) ** 0.5 for c in convs]
    )
    assert (pooled.double() ** 4).mean().item() == pytest.approx(3, rel=0.02)  # the normal distribution's


@pytest.mark.parametrize("name", ["lite4", "tf_b0", "mobilenetv2", "resnet50"])
def test_json_round_trip(name: str) -> None:
    config = variant(name, num_classes=5, padding="same")
    assert EfficientNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dict_of_an_older_version_is_read() -> None:
    data = VARIANTS["b0"].to_dict()
    for field in ("padding", "fixed_ends", "stem_kernel", "stem_pool"):
        del data[field]
    for stage in data["stages"]:
        del stage["block"]
    assert EfficientNetConfig.from_dict(data) == VARIANTS["b0"]


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("b0", {"norm": "batch"}, "unknown norm 'batch'; known: torch, paper, torchvision"),
        ("tf_lite0", {"norm": "torchvision"}, "torchvision has no tf_lite0; norm must be one of torch, paper"),
        ("b0", {"padding": "valid"}, "unknown padding 'valid'; known: symmetric, same"),
        ("b0", {"fixed_ends": 1}, "fixed_ends must be true or false, not 1"),
        ("b0", {"stem_kernel": 4}, "stem_kernel must be an odd integer >= 1, not 4"),
        ("b0", {"head_channels": -1}, "head_channels must be an integer >= 0, not -1"),
        ("resnet50", {"se_ratio": 0.25}, "se_ratio must be 0 with bottleneck blocks, not 0.25"),
    ],
)
def test_errors_are_one_line_that_names_the_fault(name: str, overrides: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(expected)}[^\n]*$"):
        variant(name, **overrides)


def test_a_stage_checks_its_block() -> None:
    with pytest.raises(ValueError, match=r"^unknown stage block 'fused'; known: mbconv, bottleneck$"):
        StageConfig(6, 3, 1, 16, 1, block="fused")  # type: ignore[arg-type]
