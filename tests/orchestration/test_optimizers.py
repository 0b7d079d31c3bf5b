"""Schedule, weight decay, seeds and the head, against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.networks import initialise_head
from effnet_cluster.orchestration.optimizers import make_optimizer
from effnet_cluster.orchestration.randomness import seed_step_randomness
from effnet_cluster.orchestration.recipes import Recipe
from effnet_cluster.orchestration.schedules import learning_rate, set_learning_rate

CPU = torch.device("cpu")
TINY = {"width": 0.25, "depth": 0.25, "num_classes": 3}


def rates(recipe: Recipe, steps: int) -> np.ndarray:
    return np.array([learning_rate(recipe, step, steps) for step in range(recipe.epochs * steps)])


def test_warm_up_is_a_straight_line_to_the_peak_and_then_half_a_cosine_goes_to_zero() -> None:
    recipe = Recipe(epochs=5, lr=0.3, warmup_epochs=1.5)
    steps, warmup = 40, 60
    found = rates(recipe, steps)
    np.testing.assert_allclose(found[:warmup], 0.3 * np.arange(1, warmup + 1) / warmup, rtol=1e-12)
    left = np.arange(200 - warmup) / (200 - warmup)
    np.testing.assert_allclose(found[warmup:], 0.15 * (1 + np.cos(np.pi * left)), rtol=1e-12)
    assert found[warmup] == found.max() == 0.3
    assert learning_rate(recipe, 200, steps) == pytest.approx(0, abs=1e-15)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert learning_rate(Recipe(epochs=1, lr=0.3, warmup_epochs=0), 0, 10) == 0.3


@settings(deadline=None)
@given(
    epochs=st.integers(1, 5),
    steps=st.integers(1, 30),
    warmup=st.floats(0, 8),
    lr=st.floats(1e-5, 1),
)
def test_no_step_is_idle_negative_or_above_the_peak(epochs: int, steps: int, warmup: float, lr: float) -> None:
    found = rates(Recipe(epochs=epochs, lr=lr, warmup_epochs=warmup), steps)
    assert (found > 0).all()
    assert (found <= lr * (1 + 1e-12)).all()  # the last warm-up step may be off by a rounding
    assert found.max() == pytest.approx(lr)
    rising = int(found.argmax())
    assert (np.diff(found[: rising + 1]) > 0).all()
    assert (np.diff(found[rising:]) <= 0).all()


def test_set_learning_rate_reaches_all_groups() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), Recipe(), CPU)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize("activation", ["silu", "prelu"])
def test_only_kernels_and_matrices_decay(activation: str) -> None:
    model = EfficientNet(variant("b0", activation=activation, **TINY))
    decay = {
        id(p): group["weight_decay"]
        for group in make_optimizer(model, Recipe(weight_decay=0.05), CPU).param_groups
        for p in group["params"]
    }
    # By the kind of layer that a parameter belongs to, not by its shape.
    kinds: dict[str, set[float]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kinds.setdefault(f"{type(module).__name__}.{name}", set()).add(decay.pop(id(parameter)))
    assert decay == {}
    expected = {
        "Conv2d.weight": {0.05},
        "Linear.weight": {0.05},
        "Conv2d.bias": {0.0},
        "Linear.bias": {0.0},
        "BatchNorm2d.weight": {0.0},
        "BatchNorm2d.bias": {0.0},
    }
    assert kinds == expected | ({"PReLU.weight": {0.0}} if activation == "prelu" else {})


def test_decay_is_decoupled_from_the_gradient() -> None:
    """AdamW's defining property: with no gradient a weight only shrinks by lr x decay."""
    layer = nn.Linear(4, 4, bias=False)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, Recipe(lr=0.1, weight_decay=0.5), CPU)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before * (1 - 0.1 * 0.5))


def stream(seed: int, step: int, rank: int) -> tuple[float, ...]:
    seed_step_randomness(seed, step, rank)
    return tuple(torch.rand(4).tolist())


def test_each_seed_step_and_rank_has_its_own_stream_and_always_the_same() -> None:
    triples = [(s, e, r) for s in (0, 1, 2, 1000, 2**31, 2**32 - 1) for e in range(12) for r in range(8)]
    streams = {triple: stream(*triple) for triple in triples}
    assert len(set(streams.values())) == len(triples)
    assert all(stream(*triple) == streams[triple] for triple in reversed(triples))


def test_the_stream_does_not_depend_on_what_was_drawn_before() -> None:
    first = stream(1, 2, 3)
    torch.rand(1000)
    assert stream(1, 2, 3) == first


def test_a_fresh_head_scores_all_classes_nearly_alike() -> None:
    torch.manual_seed(0)
    head = nn.Linear(1280, 10)
    initialise_head(head)
    assert head.bias.eq(0).all()
    weights = head.weight.detach()
    # Normal with deviation 0.01: 12,800 draws put the mean within 4 and the deviation within 4 standard errors.
    assert abs(weights.mean().item()) < 4 * 0.01 / math.sqrt(weights.numel())
    assert weights.std().item() == pytest.approx(0.01, rel=4 / math.sqrt(2 * weights.numel()))
    assert weights.abs().max() > 0.03  # a uniform of this deviation ends at 0.0173
