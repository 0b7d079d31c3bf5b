"""Every network against its twin in torchvision or timm: equal logits, equal gradients, equal running statistics."""

import pytest
import torch
from torch import nn

from effnet_cluster.effnet import EfficientNet, load_weights
from effnet_cluster.effnet.weights import key_map

from .helpers import meta_model, relative_error
from .others import PAIRS, Pair, materialise, without_storage

IMAGES = (2, 3, 64, 50)  # edges on the way down: even and odd, where "SAME" pads differently
LABELS = torch.tensor([0, 6])


def twins(pair: Pair) -> tuple[EfficientNet, nn.Module]:
    """Our network with the weights of the other, and the other."""
    with torch.device("meta"):
        other = pair.other(num_classes=7)
    config = pair.config(num_classes=7, dropout=0.0, stochastic_depth=0.0)
    materialise(other)
    ours = without_storage(meta_model(config))
    assert isinstance(ours, EfficientNet)
    load_weights(ours, other.state_dict(), pair.source)
    for module in other.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return ours, other


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_logits_and_gradients_are_equal(pair: Pair) -> None:
    ours, other = twins(pair)
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        actual, expected = ours.eval()(images), other.eval()(images)
    assert 0.01 < expected.std() < 100
    assert relative_error(actual, expected) <= 1e-5

    # In double precision, because normalising by the statistics of few pixels enlarges rounding.
    images = images.double()
    for model in (ours.double().train(), other.double().train()):
        nn.functional.cross_entropy(model(images), LABELS).backward()
    others, buffers = dict(other.named_parameters()), dict(other.named_buffers())
    names = key_map(ours.config, pair.source)
    for key, parameter in ours.named_parameters():
        expected_grad = others[names[key]].grad
        assert parameter.grad is not None
        assert expected_grad is not None
        assert expected_grad.abs().max() > 0, key
        assert relative_error(parameter.grad, expected_grad) <= 1e-6, key
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, buffers[names[key]], msg=lambda text, key=key: f"{key}: {text}")
