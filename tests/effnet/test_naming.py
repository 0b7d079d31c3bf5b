"""Names of scaled models: one way to write each, the coefficients that they mean, one line for every mistake."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.effnet import VARIANTS, variant
from effnet_cluster.effnet.naming import canonical_name, phi_name, scaled_name

FACTORS = st.integers(1, 399).map(lambda hundredths: hundredths / 100)
# Four decimals, and none of them a published model's.
PHIS = st.integers(0, 80_000).map(lambda n: n / 10_000).filter(lambda phi: not (1 <= phi <= 7 and phi == int(phi)))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_name_is_the_published_model(name: str) -> None:
    assert variant(name, num_classes=5) == replace(VARIANTS[name], num_classes=5)
    assert canonical_name(name) == name


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("b0-w1.40", "b0-w1.4"),
        ("b0-w1.0", "b0"),
        ("b0-w1-d1-r1", "b0"),
        ("b0-d2.0", "b0-d2"),
        ("b0-r1.1-d1.4-w1.2", "b0-w1.2-d1.4-r1.1"),
        ("b3-w1.0-d1.5", "b3-d1.5"),
        ("b2.50", "b2.5"),
        ("b0.0", "b0"),
        ("b3.0", "b3"),
        ("b8.0", "b8"),
        ("b3.00-w1.20", "b3-w1.2"),
        ("mobilenet_v2-r1.3-w1.40", "mobilenetv2-w1.4-r1.3"),
        ("efficientnet_b3-d2", "b3-d2"),
        ("b0.5-w1.2", "b0.5-w1.2"),
    ],
)
def test_a_model_has_one_name(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical
    assert variant(name) == variant(canonical)
    assert variant(name).name == canonical


def test_factors_multiply_their_own_dimension_and_no_other() -> None:
    b0, b4 = VARIANTS["b0"], VARIANTS["b4"]
    assert variant("b0-w1.4") == replace(b0, name="b0-w1.4", width=1.4)
    assert variant("b0-d2.0") == replace(b0, name="b0-d2", depth=2.0)
    # 291.2 pixels, and 256/224 of 288.
    assert variant("b0-r1.3") == replace(b0, name="b0-r1.3", resolution=288, eval_resize=329)
    assert variant("b4-w2") == replace(b4, name="b4-w2", width=2.8)
    assert variant("b4-d0.5") == replace(b4, name="b4-d0.5", depth=0.9)


def test_other_phi_follow_the_compound_scaling_of_the_paper() -> None:
    eight = variant("b8")
    assert (eight.width, eight.depth) == pytest.approx((1.1**8, 1.2**8))
    assert eight.resolution == 688  # 224 * 1.15⁸ = 685.2
    half = variant("b0.5")
    assert (half.width, half.depth, half.resolution) == (pytest.approx(1.1**0.5), pytest.approx(1.2**0.5), 240)


@pytest.mark.parametrize(
    ("name", "dropout"), [("b0.7", 0.23), ("b3.5", 0.35), ("b6.3", 0.47), ("b7.5", 0.5), ("b8", 0.5)]
)
def test_dropout_grows_linearly_from_b0_to_b7_and_stays(name: str, dropout: float) -> None:
    assert variant(name).dropout == pytest.approx(dropout)
    assert variant(name, dropout=0.1).dropout == 0.1


def test_overrides_win_over_the_name() -> None:
    config = variant("b0-w1.4-r2", resolution=96, activation="relu", num_classes=7)
    assert (config.width, config.resolution, config.activation, config.num_classes) == (1.4, 96, "relu", 7)
    with pytest.raises(ValueError, match="unknown config field 'colour'"):
        variant("b0-w1.4", colour="red")


@given(width=FACTORS, depth=FACTORS, resolution=FACTORS)
def test_a_scaled_name_says_its_factors_and_is_canonical(width: float, depth: float, resolution: float) -> None:
    name = scaled_name("b0", width, depth, resolution)
    config = variant(name)
    assert (config.width, config.depth) == (width, depth)
    assert abs(config.resolution - 224 * resolution) <= 4 or config.resolution == 8
    assert config.eval_resize >= config.resolution
    assert canonical_name(name) == name == config.name


@given(phi=PHIS)
def test_every_phi_of_four_decimals_has_a_name_on_the_curve(phi: float) -> None:
    config = variant(phi_name(phi))
    assert config.depth == pytest.approx(1.2**phi)
    assert canonical_name(config.name) == config.name


@pytest.mark.parametrize("phi", [1, 3.0, 7, -1, 8.5, 0.00001, 1e-9, float("inf"), float("nan")])
def test_a_phi_whose_name_is_another_models_or_none_is_refused(phi: float) -> None:
    with pytest.raises(ValueError, match=r"^(φ = |variant |unknown variant )"):
        phi_name(phi)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", "unknown variant 'x'; choose from b0, b1, "),
        ("", "unknown variant ''; choose from"),
        ("B0", "unknown variant 'B0'"),
        ("b", "unknown variant 'b'"),
        ("b-1", "unknown variant 'b-1'"),
        ("b01", "unknown variant 'b01'"),
        ("b.5", "unknown variant 'b.5'"),
        ("b1e3", "unknown variant 'b1e3'"),
        ("b0.12345", "unknown variant 'b0.12345'"),
        ("b9", "variant 'b9': φ goes up to 8"),
        ("b999999", "variant 'b999999': φ goes up to 8"),
        ("b0-", "variant 'b0-': '' is no factor"),
        ("b0-w", "variant 'b0-w': 'w' is no factor"),
        ("b0-x1.2", "'x1.2' is no factor"),
        ("b0-w1.2.3", "'w1.2.3' is no factor"),
        ("b0-w-1", "'w' is no factor"),
        ("b0-wnan", "'wnan' is no factor"),
        ("b0-w1.2-w1.4", "variant 'b0-w1.2-w1.4': 'w' is given twice"),
        ("b0-w1-w1.4", "'w' is given twice"),
        ("b0-w0", "'w0' is not between 0 and 100"),
        ("b0-d100", "'d100' is not between 0 and 100"),
        ("b0-w1.4\n", "is no factor"),
    ],
)
def test_a_name_that_means_nothing_is_refused_in_one_line(name: str, message: str) -> None:
    for function in (variant, canonical_name):
        with pytest.raises(ValueError, match="variant") as caught:
            function(name)
        assert message in str(caught.value)


@pytest.mark.parametrize("name", [None, 0, ("b0",)])
def test_what_is_no_string_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^a variant is a name such as 'b0', not "):
        variant(name)
