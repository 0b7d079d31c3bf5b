"""The moving average against its closed form, in float64 and without torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from effnet_cluster.orchestration.training.ema import Ema, decay_at

DECAY = 0.9


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def moved(model: nn.Module, step: int) -> None:
    """Other values everywhere, as a training step would leave."""
    random = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=random, dtype=torch.float64))
            else:
                tensor.fill_(step)


def test_weights_and_batchnorm_statistics_are_averaged_with_a_warm_up() -> None:
    model = network()
    ema = Ema(model, DECAY)
    names = [name for name, value in model.state_dict().items() if value.is_floating_point()]
    history = [{name: model.state_dict()[name].numpy().copy() for name in names}]
    for step in range(200):
        moved(model, step)
        ema.update()
        history.append({name: model.state_dict()[name].numpy().copy() for name in names})
    # In closed form: value t weighs (1 - d_t) times the product of all later decays.
    decays = [min(DECAY, (1 + n) / (10 + n)) for n in range(200)]
    weights = [np.prod(decays)] + [(1 - decays[n]) * np.prod(decays[n + 1 :]) for n in range(200)]
    assert sum(weights) == pytest.approx(1)
    for name in names:
        expected = sum(weight * values[name] for weight, values in zip(weights, history, strict=True))
        np.testing.assert_allclose(ema.network.state_dict()[name].numpy(), expected, rtol=1e-10, atol=1e-12)
    assert ema.network.state_dict()["1.num_batches_tracked"] == 199


def test_a_short_run_is_not_what_it_was_initialised_with() -> None:
    """With 0.9999 and no warm-up, nine tenths of the average would be the initial weights after 1,000 steps."""
    model = network()
    ema = Ema(model, 0.9999)
    before = ema.network.state_dict()["0.weight"].clone()
    nn.init.ones_(model[0].weight)  # type: ignore[index, arg-type]
    for _ in range(1000):
        ema.update()
    after = ema.network.state_dict()["0.weight"]
    assert (after - 1).abs().max() < 1e-6 * (before - 1).abs().max()


def test_the_decay_rises_to_the_one_asked_for() -> None:
    found = [decay_at(n, 0.99) for n in range(2000)]
    assert found[0] == 0.1
    assert found == sorted(found)
    assert found[-1] == 0.99
    assert decay_at(10**9, 0.9999) == 0.9999


def test_the_average_is_for_evaluation_and_goes_on_where_it_was_saved() -> None:
    model = network()
    ema, steps = Ema(model, DECAY), 7
    for step in range(steps):
        moved(model, step)
        ema.update()
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert model.training
    other_model = network()
    other = Ema(other_model, DECAY)
    other.load_state_dict(ema.state_dict())
    for step in range(steps, 2 * steps):
        moved(model, step)
        ema.update()
        moved(other_model, step)
        other.update()
    for name, value in ema.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name])
