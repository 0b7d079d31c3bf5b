"""Rounding and compound scaling against the reference's values, written out."""

import pytest

from effnet_cluster.effnet.scaling import CompoundScale, compound_scaling, round_channels, round_repeats


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (32, 1.0, 32),
        (32, 1.1, 32),  # 35.2
        (32, 1.2, 40),  # 38.4
        (16, 1.1, 16),  # 17.6
        (1280, 1.1, 1408),
        (16, 0.1, 8),  # the floor
        (11, 1.0, 16),  # nearest is 8, which would lose more than 10 %
        (12, 1.0, 16),  # halves round up
        (17, 1.0, 16),  # loses 6 %: allowed
    ],
)
def test_round_channels(channels: int, width: float, expected: int) -> None:
    assert round_channels(channels, width) == expected


def test_round_channels_agrees_with_torchvision() -> None:
    reference = pytest.importorskip("torchvision.models._utils")._make_divisible
    for width in (0.25, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 4.3):
        for channels in range(1, 400):
            assert round_channels(channels, width) == reference(channels * width, 8)


@pytest.mark.parametrize(
    ("repeats", "depth", "expected"), [(1, 1.0, 1), (1, 1.1, 2), (2, 1.2, 3), (4, 3.1, 13), (4, 0.5, 2), (3, 0.1, 1)]
)
def test_round_repeats_rounds_up(repeats: int, depth: float, expected: int) -> None:
    assert round_repeats(repeats, depth) == expected


def test_compound_scaling_is_the_papers() -> None:
    assert compound_scaling(0) == CompoundScale(depth=1, width=1, resolution=1)
    assert compound_scaling(1) == CompoundScale(depth=1.2, width=1.1, resolution=1.15)
    two = compound_scaling(2)
    assert (two.depth, two.width, two.resolution) == pytest.approx((1.44, 1.21, 1.3225))
    assert compound_scaling(1).flops == pytest.approx(1.2 * 1.21 * 1.3225)
    assert compound_scaling(2, alpha=2, beta=3, gamma=4).flops == pytest.approx(4 * 81 * 256)
