"""The configuration: published numbers, resolved blocks, errors in one line, the way through JSON."""

import json
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from effnet_cluster.effnet import ACTIVATIONS, VARIANTS, EfficientNetConfig, variant
from effnet_cluster.effnet.stages import SHORTCUTS, StageConfig

# blocks, stem channels, head channels: read off the reference implementation's models
SHAPES = {
    "b0": (16, 32, 1280),
    "b1": (23, 32, 1280),
    "b2": (23, 32, 1408),
    "b3": (26, 40, 1536),
    "b4": (32, 48, 1792),
    "b5": (39, 48, 2048),
    "b6": (45, 56, 2304),
    "b7": (55, 64, 2560),
}


@pytest.mark.parametrize("name", SHAPES)
def test_variants_have_the_published_blocks_and_channels(name: str) -> None:
    config = VARIANTS[name]
    assert (len(config.blocks), config.scaled_stem_channels, config.scaled_head_channels) == SHAPES[name]


def test_the_papers_eight_variants_come_first() -> None:
    assert list(VARIANTS)[:8] == list(SHAPES)
    assert all(config.name == name for name, config in VARIANTS.items())


@pytest.mark.parametrize("name", SHAPES)
def test_variants_have_torchvisions_batch_norm_and_evaluation_size(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    import torch

    with torch.device("meta"):
        norm = getattr(models, f"efficientnet_{name}")().features[0][1]
    config = VARIANTS[name]
    assert (config.bn_momentum, config.bn_eps) == (norm.momentum, norm.eps)
    transforms = getattr(models, f"EfficientNet_{name.upper()}_Weights").IMAGENET1K_V1.transforms()
    assert transforms.resize_size == [config.eval_resize]
    if name != "b2":  # torchvision evaluates B2 at 288, the paper's resolution is 260
        assert transforms.crop_size == [config.resolution]


def test_stochastic_depth_grows_linearly_over_all_blocks_with_a_shortcut() -> None:
    blocks = variant("b0", stochastic_depth=0.32).blocks
    assert [round(block.drop_rate, 9) for block in blocks if block.has_shortcut] == [
        round(0.02 * index, 9) for index in (2, 4, 6, 7, 9, 10, 12, 13, 14)
    ]
    assert all(block.drop_rate == 0 for block in blocks if not block.has_shortcut)


@pytest.mark.parametrize(("shortcut", "count"), [("residual", 9), ("none", 0), ("identity_conv", 16)])
def test_shortcut_kinds_differ_in_the_blocks_that_have_one(shortcut: str, count: int) -> None:
    assert sum(block.has_shortcut for block in variant("b0", shortcut=shortcut).blocks) == count


def test_the_squeeze_is_a_share_of_the_blocks_input() -> None:
    blocks = VARIANTS["b0"].blocks
    assert [block.squeeze_channels for block in blocks[:4]] == [8, 4, 6, 6]
    assert {block.squeeze_channels for block in variant("b0", se_ratio=0).blocks} == {0}


def test_scaled_replaces_the_coefficients_and_nothing_else() -> None:
    base = variant("b0", num_classes=5, activation="mish")
    scaled = base.scaled(width=2.0, depth=3.1, resolution=448)
    assert (scaled.width, scaled.depth, scaled.resolution, scaled.eval_resize) == (2.0, 3.1, 448, 512)
    assert scaled.blocks == replace(VARIANTS["b7"], num_classes=5, activation="mish").blocks
    assert replace(scaled, name="b0", width=1.0, depth=1.0, resolution=224, eval_resize=256) == base


@pytest.mark.parametrize("base", ["b0", "b4", "b0-w1.4"])
def test_the_name_of_a_scaled_config_is_no_other_models(base: str) -> None:
    """As `b0-w1.4-d1.2-r64` it would read back as a model for images of 64 times as many pixels."""
    scaled = variant(base).scaled(1.4, 1.2, 64)
    assert scaled.name == f"{base}-w1.4-d1.2-64px"
    for config in (scaled, variant(base).compound_scaled(2), variant(base).compound_scaled(0)):
        with pytest.raises(ValueError, match=r"is no factor|is given twice"):
            variant(config.name)


def test_a_config_is_frozen_and_hashable() -> None:
    with pytest.raises(FrozenInstanceError):
        VARIANTS["b0"].width = 2.0  # type: ignore[misc]
    assert len({*VARIANTS.values(), variant("b0")}) == len(VARIANTS)


@pytest.mark.parametrize(
    ("arguments", "overrides", "expected"),
    [
        (("b9",), {}, "variant 'b9': φ goes up to 8"),
        (("B0",), {}, "unknown variant 'B0'; choose from b0, b1"),
        (("b0",), {"widht": 1.0}, "unknown config field 'widht'; known: name, width, depth"),
        (("b0",), {"activation": "swosh"}, "unknown activation 'swosh'; known: silu, swish, relu"),
        (("b0",), {"shortcut": "dense"}, "unknown shortcut 'dense'; known: residual, none, identity_conv"),
        (("b0",), {"num_classes": 0}, "num_classes must be an integer >= 1, not 0"),
        (("b0",), {"num_classes": True}, "num_classes must be an integer >= 1, not True"),
        (("b0",), {"resolution": 224.0}, "resolution must be an integer >= 1, not 224.0"),
        (("b0",), {"width": "1.0"}, "width must be a number > 0, not '1.0'"),
        (("b0",), {"depth": float("inf")}, "depth must be a number > 0, not inf"),
        (("b0",), {"bn_eps": float("nan")}, "bn_eps must be a number > 0, not nan"),
        (("b0",), {"dropout": 1.0}, "dropout must be a number in [0, 1), not 1.0"),
        (("b0",), {"stochastic_depth": -0.1}, "stochastic_depth must be a number in [0, 1), not -0.1"),
        (("b0",), {"stages": ()}, "stages must be a non-empty tuple of StageConfig, not ()"),
    ],
)
def test_errors_are_one_line_that_names_the_fault(
    arguments: tuple[str], overrides: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(expected)}[^\n]*$"):
        variant(*arguments, **overrides)


def test_a_stage_checks_its_numbers() -> None:
    with pytest.raises(ValueError, match="stage kernel must be an odd integer >= 1, not 4"):
        StageConfig(expand=6, kernel=4, stride=1, channels=16, repeats=1)


@pytest.mark.parametrize("name", SHAPES)
def test_json_round_trip(name: str) -> None:
    config = variant(name, num_classes=5, activation="prelu", shortcut="identity_conv", dropout=0.125)
    assert EfficientNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dict_needs_only_the_fields_without_a_default() -> None:
    data = VARIANTS["b3"].to_dict()
    for field in ("stages", "activation", "num_classes", "se_ratio"):
        del data[field]
    assert EfficientNetConfig.from_dict(data) == VARIANTS["b3"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"colour": 1}, "unknown config field 'colour'"),
        ({"stages": 3}, "stages must be a list, not 3"),
        ({"stages": [3]}, "stage must be a mapping"),
        ({"stages": [{"expand": 1}]}, "stage lacks the field kernel, stride, channels, repeats"),
        ({"shortcut": None}, "unknown shortcut None"),
    ],
)
def test_a_broken_dict_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}"):
        EfficientNetConfig.from_dict(VARIANTS["b0"].to_dict() | change)


def test_a_dict_without_a_required_field_is_refused() -> None:
    data = VARIANTS["b0"].to_dict()
    del data["width"]
    with pytest.raises(ValueError, match=r"^config lacks the field width$"):
        EfficientNetConfig.from_dict(data)


def test_names_are_unique_and_the_papers_come_first() -> None:
    assert (next(iter(ACTIVATIONS)), SHORTCUTS[0]) == ("silu", "residual")
