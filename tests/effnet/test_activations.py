"""Every activation works in the network, and costs what the registry says."""

import pytest
import torch

from effnet_cluster.effnet import ACTIVATION_NAMES, ACTIVATIONS, EfficientNet, make_activation, variant


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_a_network_with_it_trains(name: str) -> None:
    torch.manual_seed(0)
    model = EfficientNet(variant("b0", depth=0.3, width=0.5, num_classes=3, activation=name))
    images = torch.randn(4, 3, 32, 32)
    torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    assert model.stem.conv.weight.grad.abs().sum() > 0
    assert model.eval()(images).isfinite().all()


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_in_place_or_not_the_gradient_is_the_true_one(name: str) -> None:
    """Numerical differentiation is blind to what autograd saved, so it finds a tensor overwritten too early."""
    torch.manual_seed(1)
    activation = make_activation(name, 3).double().eval()
    points = torch.tensor([-2.9, -1.7, -0.6, 0.3, 0.8, 2.2], dtype=torch.float64)
    x = points.repeat(3).reshape(1, 3, 6, 1).requires_grad_()
    # The product stands for BatchNorm before it, the square for a layer after it that keeps its input.
    assert torch.autograd.gradcheck(lambda x: activation(x * 1.01) ** 2, (x,))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("silu", lambda x: x * torch.sigmoid(x)),
        ("relu6", lambda x: x.clamp(0, 6)),
        ("leaky_relu", lambda x: torch.where(x > 0, x, 0.01 * x)),
        ("prelu", lambda x: torch.where(x > 0, x, 0.25 * x)),
        ("elu", lambda x: torch.where(x > 0, x, x.exp() - 1)),
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        ("mish", lambda x: x * torch.tanh(torch.log1p(x.exp()))),
        ("hardswish", lambda x: x * (x + 3).clamp(0, 6) / 6),
        ("softsign", lambda x: x / (1 + x.abs())),
    ],
)
def test_names_mean_what_they_say(name: str, expected: object) -> None:
    x = torch.linspace(-8, 8, 33).reshape(1, 1, 33, 1)
    assert callable(expected)
    torch.testing.assert_close(make_activation(name, 1)(x.clone()), expected(x), atol=1e-6, rtol=1e-5)


def test_prelu_learns_one_slope_a_channel() -> None:
    assert [tuple(parameter.shape) for parameter in make_activation("prelu", 7).parameters()] == [(7,)]


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_the_registry_counts_parameters(name: str) -> None:
    built = sum(parameter.numel() for parameter in make_activation(name, 12).parameters())
    assert ACTIVATIONS[name].parameters(12) == built


def test_each_call_builds_a_module_of_its_own() -> None:
    assert make_activation("prelu", 2) is not make_activation("prelu", 2)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown activation 'swish'; known: silu, relu, .*sigmoid$"):
        make_activation("swish", 8)
