"""Every network against its twin in torchvision or timm: equal logits, equal gradients, equal running statistics.

Both sides run the same kernels in the same order: with torch 2.14 on x86 every difference is 0. The bounds leave room
for other machines.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from effnet_cluster.effnet import EfficientNet
from effnet_cluster.effnet.weights import convert_state_dict, key_map

from .helpers import meta_model, relative_error
from .others import PAIRS, Pair, calibrate, materialise

LABELS = torch.tensor([0, 6])


def images(seed: int) -> Tensor:
    """Two images, whose edges on the way down are even and odd: "SAME" pads them differently."""
    return torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(seed))


def twins(pair: Pair) -> tuple[EfficientNet, nn.Module]:
    """Our network with the weights of the other, and the other."""
    with torch.device("meta"):
        other = pair.other(num_classes=7)
    for module in other.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    materialise(other)
    calibrate(other, images(seed=2))
    config = pair.config(num_classes=7, dropout=0.0, stochastic_depth=0.0)
    ours = meta_model(config)
    state, buffers = convert_state_dict(other.state_dict(), pair.source, config), dict(ours.named_buffers())
    # The weights are shared, only their gradients compared; the statistics, which training moves, are not.
    ours.load_state_dict({k: v.clone() if k in buffers else v for k, v in state.items()}, strict=True, assign=True)
    return ours, other


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_logits_and_gradients_are_equal(pair: Pair) -> None:
    ours, other = twins(pair)
    inputs = images(seed=1)
    with torch.inference_mode():
        actual, expected = ours.eval()(inputs), other.eval()(inputs)
    assert relative_error(expected[0], expected[1]) > 0.1  # else it would not be the image that is compared
    assert relative_error(actual, expected) <= 1e-5

    for model in (ours.train(), other.train()):
        nn.functional.cross_entropy(model(inputs), LABELS).backward()
    others, buffers = dict(other.named_parameters()), dict(other.named_buffers())
    names = key_map(ours.config, pair.source)
    assert sorted(names.values()) == sorted(other.state_dict())  # all of them, each once
    for key, parameter in ours.named_parameters():
        expected_grad = others[names[key]].grad
        assert parameter.grad is not None
        assert expected_grad is not None
        assert expected_grad.abs().max() > 0, key
        assert relative_error(parameter.grad, expected_grad) <= 1e-5, key
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[names[key]], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    "wrong", [{"padding": "symmetric"}, {"bn_eps": 1e-5}, {"activation": "relu"}], ids=lambda wrong: next(iter(wrong))
)
def test_the_comparison_notices_what_no_state_dict_tells(wrong: dict[str, str | float]) -> None:
    (pair,) = (pair for pair in PAIRS if str(pair) == "timm-tf_efficientnet_lite0")
    ours, other = twins(pair)
    broken = EfficientNet(replace(ours.config, **wrong))
    broken.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        assert relative_error(broken.eval()(images(seed=1)), other.eval()(images(seed=1))) > 1e-3
