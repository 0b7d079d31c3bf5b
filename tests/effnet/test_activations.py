"""Every activation works in the network, and costs what the registry says."""

import pytest
import torch

from effnet_cluster.effnet import ACTIVATIONS, EfficientNet, variant
from effnet_cluster.effnet.activations import ACTIVATION_NAMES, make_activation


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
    if name != "rrelu":  # whose slopes are random in training
        assert torch.autograd.gradcheck(lambda x: activation.train()(x * 1.01) ** 2, (x,))


def test_rrelu_in_training_passes_gradients_by_the_slopes_that_it_drew() -> None:
    activation = make_activation("rrelu", 4).train()
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    y = activation(x * 1.0)
    slopes = (y / x).detach()
    y.sum().backward()
    torch.testing.assert_close(x.grad, slopes)
    assert ((slopes >= 1 / 8) & (slopes <= 1 / 3))[x < 0].all()
    assert slopes[x < 0].unique().numel() > 1


def test_swish_learns_its_beta_a_channel() -> None:
    """Against autograd on the formula, in float64."""
    activation = make_activation("swish", 3).double().train()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([0.2, 1.0, -1.5], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        activation.beta.copy_(beta)  # type: ignore[operator, union-attr]
    weights = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    (activation(x) * weights).sum().backward()
    found, x.grad = x.grad, None
    (x * torch.sigmoid(x * beta.view(-1, 1, 1)) * weights).sum().backward()
    torch.testing.assert_close(found, x.grad)
    torch.testing.assert_close(activation.beta.grad, beta.grad)


@pytest.mark.parametrize("name", ["softsign", "logsigmoid"])
def test_ours_equal_torchs_far_out_too(name: str) -> None:
    x = torch.cat([torch.linspace(-60, 60, 97), torch.tensor([-1e3, 1e3, 0.0])]).reshape(1, 1, -1, 1)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer = {"softsign": torch.nn.Softsign, "logsigmoid": torch.nn.LogSigmoid}[name]()
    actual, expected = make_activation(name, 1).train()(ours), layer(theirs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    actual.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_the_memory_format_stays(name: str) -> None:
    x = torch.randn(2, 4, 5, 6)
    last = x.to(memory_format=torch.channels_last)
    module = make_activation(name, 4).train()
    torch.manual_seed(0)
    actual = module(last.clone().requires_grad_().mul(1))
    assert actual.is_contiguous(memory_format=torch.channels_last)
    if name != "rrelu":  # its slopes are drawn in the order of the memory
        torch.testing.assert_close(actual.contiguous(), module(x.clone().requires_grad_().mul(1)))


def drop_in_activations() -> set[str]:
    """Modules of `torch.nn` that, built without arguments, map a tensor element by element; found by trying all."""
    x = torch.randn(2, 3, 4, 5)
    found = set()
    for name in torch.nn.modules.activation.__all__:
        try:
            module = getattr(torch.nn, name)().eval()
            output = module(x.clone())
            moved = module(x.flip(3).clone()).flip(3)
        except (TypeError, RuntimeError, ValueError):
            continue
        if isinstance(output, torch.Tensor) and output.shape == x.shape and torch.equal(output, moved):
            found.add(name)
    # Not pointwise: what a position becomes depends on the others.
    return {name for name in found if "Softm" not in name and "LogSoft" not in name}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_every_drop_in_activation_of_torch_is_registered() -> None:
    available = drop_in_activations()
    assert {"ReLU", "SiLU", "Hardshrink", "PReLU"} <= available
    assert available <= {spec.layer for spec in ACTIVATIONS.values()}


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_network_with_it_can_be_scripted(name: str) -> None:
    torch.manual_seed(0)
    model = EfficientNet(variant("b0", depth=0.3, width=0.25, num_classes=3, activation=name))
    scripted = torch.jit.script(model)
    images = torch.randn(2, 3, 33, 40)
    scripted.train()(images).sum().backward()
    torch.testing.assert_close(scripted.eval()(images), model.eval()(images), rtol=1e-5, atol=1e-6)


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
    with pytest.raises(ValueError, match=r"^unknown activation 'swosh'; known: silu, swish, relu, .*sigmoid$"):
        make_activation("swosh", 8)
