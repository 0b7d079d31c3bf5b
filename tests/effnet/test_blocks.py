"""The properties that the blocks promise: shortcuts, stochastic depth, squeeze-and-excitation, initialisation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.effnet.blocks import (
    Bottleneck,
    ConvNormAct,
    MaxPool,
    MBConv,
    NormAct,
    SqueezeExcitation,
    StochasticDepth,
    conv2d,
    make_shortcut,
)
from effnet_cluster.effnet.padding import Padding, same_padding
from effnet_cluster.effnet.stages import BlockConfig

NORM_ACT = NormAct("silu", bn_momentum=0.1, bn_eps=1e-5)
BLOCK = BlockConfig(
    stage=0,
    index=0,
    in_channels=8,
    out_channels=8,
    expand=6,
    squeeze_channels=2,
    kernel=3,
    stride=1,
    drop_rate=0.0,
    has_shortcut=True,
)


def silence(block: MBConv) -> MBConv:
    """Make the residual branch output 0, so that only the shortcut is left."""
    nn.init.zeros_(block.project.norm.weight)
    return block


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 7), (8, 8), (13, 10)])
def test_the_shortcut_and_the_branch_have_one_size(stride: int, kernel: int, size: tuple[int, int]) -> None:
    block = MBConv(replace(BLOCK, out_channels=16, stride=stride, kernel=kernel), NORM_ACT).eval()
    expected = tuple(-(-edge // stride) for edge in size)
    assert block(torch.randn(2, 8, *size)).shape == (2, 16, *expected)


@pytest.mark.parametrize("out_channels", [5, 8, 16])
def test_identity_conv_starts_as_the_identity_on_channels(out_channels: int) -> None:
    x = torch.randn(2, 8, 5, 5)
    y = make_shortcut(8, out_channels, stride=1)(x)
    shared = min(8, out_channels)
    assert torch.equal(y[:, :shared], x[:, :shared])
    assert not y[:, shared:].any()


def test_a_silent_block_passes_the_pooled_input_to_its_first_channels() -> None:
    block = silence(MBConv(replace(BLOCK, out_channels=12, stride=2), NORM_ACT)).eval()
    x = torch.arange(2 * 8 * 5 * 5, dtype=torch.float32).reshape(2, 8, 5, 5)
    y = block(x)
    assert y.shape == (2, 12, 3, 3)
    whole = x[..., :4, :4].reshape(2, 8, 2, 2, 2, 2).mean(dim=(3, 5))  # the four 2x2 windows that fit
    torch.testing.assert_close(y[:, :8, :2, :2], whole)
    # The windows that hang over the edge average the pixels they have.
    torch.testing.assert_close(y[:, :8, 2, :2], (x[..., 4, :4:2] + x[..., 4, 1:4:2]) / 2)
    torch.testing.assert_close(y[:, :8, 2, 2], x[..., 4, 4])
    assert not y[:, 8:].any()


def test_the_identity_survives_the_initialisation_of_the_whole_model() -> None:
    model = EfficientNet(variant("b0", width=0.5, shortcut="identity_conv", num_classes=2))
    convs = [m for block in model.stages.modules() if isinstance(block, MBConv) for m in block.shortcut.modules()]
    weights = [m.weight[:, :, 0, 0] for m in convs if isinstance(m, nn.Conv2d)]
    assert len(weights) == 7
    assert all(torch.equal(weight, torch.eye(*weight.shape)) for weight in weights)


def test_a_residual_block_adds_its_input_unchanged() -> None:
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(silence(MBConv(BLOCK, NORM_ACT)).eval()(x), x)


def test_without_a_shortcut_nothing_of_the_input_is_added() -> None:
    block = silence(MBConv(replace(BLOCK, has_shortcut=False), NORM_ACT)).eval()
    assert not block(torch.randn(2, 8, 6, 6)).any()


def test_stochastic_depth_drops_whole_samples_and_rescales_the_others() -> None:
    torch.manual_seed(0)
    y = StochasticDepth(0.25)(torch.ones(4000, 2, 3, 3))
    rows = y.flatten(1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert set(rows[:, 0].tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    # Five standard errors of a mean of 4000 Bernoulli(0.75) / 0.75.
    assert y.mean().item() == pytest.approx(1.0, abs=5 * (0.25 / 0.75 / 4000) ** 0.5)


def test_stochastic_depth_is_off_in_evaluation_and_at_rate_0() -> None:
    x = torch.randn(64, 2, 3, 3)
    assert torch.equal(StochasticDepth(0.9).eval()(x), x)
    assert torch.equal(StochasticDepth(0.0)(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_stochastic_depth_refuses_an_impossible_rate(rate: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        StochasticDepth(rate)


def test_a_dropped_block_is_its_shortcut() -> None:
    torch.manual_seed(0)
    block = MBConv(replace(BLOCK, drop_rate=0.5), NORM_ACT)
    x = torch.randn(64, 8, 4, 4)
    unchanged = (block(x) == x).flatten(1).all(dim=1)
    assert 10 < unchanged.sum() < 54


def test_every_sample_has_its_own_gate() -> None:
    torch.manual_seed(0)
    se = SqueezeExcitation(8, 2, "silu").eval()
    x = torch.randn(3, 8, 5, 4)
    gate = se(x) / x
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(se(x)[1:2], se(x[1:2]))


@pytest.mark.parametrize(
    ("arguments", "fan_out"),
    [
        ({"in_channels": 64, "out_channels": 256}, 256),
        ({"in_channels": 32, "out_channels": 64, "kernel": 3}, 9 * 64),
        ({"in_channels": 2048, "out_channels": 2048, "kernel": 3, "groups": 2048}, 9),
        ({"in_channels": 1024, "out_channels": 1024, "kernel": 5, "groups": 1024}, 25),
    ],
)
def test_convolutions_start_normal_with_variance_2_over_fan_out(arguments: dict[str, int], fan_out: int) -> None:
    torch.manual_seed(0)
    weight = conv2d(**arguments).weight
    assert weight.numel() > 16_000
    assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert abs(weight.mean().item()) < 5 * (2 / fan_out / weight.numel()) ** 0.5
    # A uniform distribution of that variance would have no value beyond 1.74 standard deviations.
    assert (weight.abs() > 2 * (2 / fan_out) ** 0.5).float().mean().item() == pytest.approx(0.0455, abs=0.01)


def test_biases_start_at_0() -> None:
    bias = conv2d(8, 8, bias=True).bias
    assert bias is not None
    assert not bias.any()


@pytest.mark.parametrize(
    ("edge", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),
        (225, 3, 2, (1, 1)),
        (112, 5, 2, (1, 2)),
        (15, 5, 2, (2, 2)),
        (7, 7, 2, (3, 3)),
        (14, 5, 1, (2, 2)),
        (14, 1, 2, (0, 0)),
        (9, 3, 3, (0, 0)),
        (1, 3, 2, (1, 1)),
    ],
)
def test_same_padding_is_tensorflows(edge: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(edge, kernel, stride) == expected


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_convolutions_round_the_size_up(kernel: int, stride: int, padding: Padding) -> None:
    for size in ((1, 2), (7, 8), (9, 13)):
        out = conv2d(2, 3, kernel, stride, padding=padding)(torch.randn(1, 2, *size))
        assert out.shape == (1, 3, *(-(-edge // stride) for edge in size))


def test_the_paddings_differ_only_by_a_stride_and_an_even_edge() -> None:
    torch.manual_seed(0)
    same, symmetric = conv2d(2, 3, 3, 2, padding="same"), conv2d(2, 3, 3, 2)
    same.load_state_dict(symmetric.state_dict())
    odd, even = torch.randn(1, 2, 9, 9), torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(same(odd), symmetric(odd))
    assert not torch.allclose(same(even), symmetric(even))
    # "Same" starts at the first pixel, where the symmetric one starts on the image without its first row and column.
    torch.testing.assert_close(same(even)[..., 1:, 1:], symmetric(even[..., 1:, 1:])[..., 1:, 1:])
    assert type(conv2d(2, 3, 3, 1, padding="same")) is type(conv2d(2, 3, 1, 2, padding="same")) is nn.Conv2d


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_padded_pixels_never_win_the_maximum(padding: Padding) -> None:
    pool = MaxPool(padding)
    for size in ((8, 8), (9, 7)):
        x = -1 - torch.rand(1, 2, *size)
        y = pool(x)
        assert y.shape == (1, 2, *(-(-edge // 2) for edge in size))
        assert (y < -1).all()
        assert y.max() == x.max()


BOTTLENECK = BlockConfig(
    stage=0,
    index=0,
    in_channels=16,
    out_channels=16,
    expand=4,
    squeeze_channels=0,
    kernel=3,
    stride=1,
    drop_rate=0.0,
    has_shortcut=True,
    kind="bottleneck",
)


def test_a_bottleneck_is_narrow_inside_and_activates_after_the_sum() -> None:
    block = Bottleneck(BOTTLENECK, NORM_ACT).eval()
    assert block.spatial.conv.weight.shape == (4, 4, 3, 3)
    nn.init.zeros_(block.project.norm.weight)
    x = torch.randn(2, 16, 6, 6)
    torch.testing.assert_close(block(x), nn.functional.silu(x))


def test_a_bottleneck_projects_where_the_shape_changes() -> None:
    config = replace(BOTTLENECK, out_channels=32, stride=2, projects=True)
    block = Bottleneck(config, NORM_ACT).eval()
    assert isinstance(block.shortcut, ConvNormAct)
    assert block.shortcut.conv.stride == (2, 2)
    assert block(torch.randn(2, 16, 7, 6)).shape == (2, 32, 4, 3)
    assert Bottleneck(replace(config, has_shortcut=False, projects=False), NORM_ACT).shortcut is None


def test_a_dropped_bottleneck_is_its_activated_shortcut() -> None:
    torch.manual_seed(0)
    block = Bottleneck(replace(BOTTLENECK, drop_rate=0.5), NORM_ACT)
    x = torch.randn(64, 16, 4, 4)
    unchanged = (block(x) == nn.functional.silu(x)).flatten(1).all(dim=1)
    assert 10 < unchanged.sum() < 54
