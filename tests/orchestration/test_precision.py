"""Number formats: chosen by device and by measuring, without a trace in the model."""

import copy

import pytest
import torch
from torch import nn

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.training import precision
from effnet_cluster.orchestration.training.classifier import NormalizedModel

CPU = torch.device("cpu")
IMAGES = torch.zeros((2, 3, 32, 32), dtype=torch.uint8)


def small() -> nn.Module:
    return NormalizedModel(EfficientNet(variant("b0", width=0.25, depth=0.25, num_classes=3)))


def test_measuring_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    model = small()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    chosen, why = precision.choose_precision(model, IMAGES, CPU)
    assert chosen in ("float32", "bfloat16")
    assert "times as fast as float32" in why
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 0.5), "bfloat16"), ((1.0, 0.95), "float32")])
def test_a_cpu_computes_in_bfloat16_only_where_that_pays(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], expected: str
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    times = dict(zip(("float32", "bfloat16"), seconds, strict=True))
    monkeypatch.setattr(precision, "_seconds", lambda model, images, name: times[name])
    assert precision.choose_precision(small(), IMAGES, CPU)[0] == expected
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    assert precision.choose_precision(small(), IMAGES, CPU)[0] == "float32"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_forward_pass_computes_in_the_format(name: precision.Precision) -> None:
    with precision.autocast(name, CPU):
        assert nn.Linear(4, 4)(torch.zeros(1, 4)).dtype == getattr(torch, name)
    assert precision.gradient_scaler(name, CPU).is_enabled() == (name == "float16")
