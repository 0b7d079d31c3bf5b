"""Optimizers, schedules, seeds and the head, against closed forms and an independent transcription."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.training.networks import freeze_backbone, initialise_head, set_training_mode
from effnet_cluster.orchestration.training.optimizers import RMSpropTF, make_optimizer
from effnet_cluster.orchestration.training.randomness import seed_step_randomness
from effnet_cluster.orchestration.training.recipes import Recipe
from effnet_cluster.orchestration.training.schedules import learning_rate, set_learning_rate

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


def published_rmsprop(
    weights: list[np.ndarray], gradients: list[list[np.ndarray]], rates: list[float], decay: float
) -> list[np.ndarray]:
    """TensorFlow's ApplyRMSProp in numpy and float64, element by element as its documentation has it."""
    rho, momentum, epsilon = 0.9, 0.9, 1e-3
    weights = [weight.copy() for weight in weights]
    mean_square = [np.ones_like(weight) for weight in weights]
    mom = [np.zeros_like(weight) for weight in weights]
    for step, rate in enumerate(rates):
        for i, weight in enumerate(weights):
            gradient = gradients[step][i] + decay * weight
            mean_square[i] = rho * mean_square[i] + (1 - rho) * gradient * gradient
            mom[i] = momentum * mom[i] + rate * gradient / np.sqrt(mean_square[i] + epsilon)
            weights[i] = weight - mom[i]
    return weights


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_rmsprop_is_tensorflows_for_a_thousand_steps(decay: float) -> None:
    random = np.random.default_rng(0)
    shapes = [(3, 4), (7,), (2, 1, 3, 3)]
    start = [random.normal(size=shape) for shape in shapes]
    gradients = [[random.normal(size=shape) * 10 ** random.uniform(-3, 1) for shape in shapes] for _ in range(1000)]
    rates = [0.016 * 0.97 ** (step // 24) for step in range(1000)]
    weights = [nn.Parameter(torch.tensor(value)) for value in start]
    optimizer = RMSpropTF(weights, lr=1.0, weight_decay=decay)
    for step, rate in enumerate(rates):
        set_learning_rate(optimizer, rate)
        for weight, gradient in zip(weights, gradients[step], strict=True):
            weight.grad = torch.tensor(gradient)
        optimizer.step()
    expected = published_rmsprop(start, gradients, rates, decay)
    for weight, value, before in zip(weights, expected, start, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), value, rtol=1e-9, atol=1e-9)
        assert np.abs(value - before).min() > 1e-6


def test_rmsprop_is_not_torchs() -> None:
    """The test above can fail: torch's form, with the same numbers, goes elsewhere."""
    first, second = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    ours = RMSpropTF([first], lr=0.01)
    torchs = torch.optim.RMSprop([second], lr=0.01, alpha=0.9, eps=1e-3, momentum=0.9)
    for _ in range(3):
        first.grad = second.grad = torch.full((3,), 0.1, dtype=torch.float64)
        ours.step()
        torchs.step()
    assert (first - second).abs().min() > 1e-3


def test_rmsprop_goes_on_from_its_state() -> None:
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    first, second = (RMSpropTF([weight], lr=0.01) for weight in weights)
    for step in range(6):
        if step == 3:
            second = RMSpropTF([weights[1]], lr=0.5)
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        for weight, optimizer in zip(weights, (first, second), strict=True):
            weight.grad = torch.full((3,), 0.1 * step)
            optimizer.step()
    assert torch.equal(weights[0], weights[1])


def test_the_papers_schedule_is_a_staircase_after_its_warm_up() -> None:
    recipe = Recipe(name="paper", epochs=20, global_batch=512)
    steps = 50
    found = rates(recipe, steps)
    peak = 0.016 * 512 / 256
    np.testing.assert_allclose(found[: 5 * steps], peak * np.arange(1, 5 * steps + 1) / (5 * steps), rtol=1e-12)
    epochs = np.arange(5 * steps, 20 * steps) / steps
    np.testing.assert_allclose(found[5 * steps :], peak * 0.97 ** np.floor(epochs / 2.4), rtol=1e-12)


def test_the_paper_recipe_is_the_papers() -> None:
    recipe = Recipe.model_validate("paper")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(network, recipe, CPU)
    assert isinstance(optimizer, RMSpropTF)
    groups = {group["weight_decay"]: group for group in optimizer.param_groups}
    assert groups.keys() == {1e-5, 0.0}
    assert [p.ndim for p in groups[1e-5]["params"]] == [4]
    for group in groups.values():
        assert (group["alpha"], group["momentum"], group["eps"]) == (0.9, 0.9, 1e-3)
    assert (recipe.ema, recipe.label_smoothing, recipe.policy, recipe.bn_momentum) == (0.9999, 0.1, "auto", 0.01)
    assert (recipe.dropout, recipe.stochastic_depth) == (None, None)


def test_the_learning_rate_falls_geometrically_towards_the_stem() -> None:
    model = EfficientNet(variant("b0", **TINY))
    optimizer = make_optimizer(model, Recipe(backbone_lr=0.1, lr=1.0), CPU)
    set_learning_rate(optimizer, 2.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    parts = [model.stem, *model.stages.children(), model.head, model.classifier]
    found = [{rate.pop(id(p)) for p in part.parameters()} for part in parts]
    assert rate == {}
    expected = 2.0 * np.geomspace(0.1, 1, len(parts))
    np.testing.assert_allclose([values.pop() for values in found], expected)
    assert not any(found)


def test_a_frozen_backbone_computes_what_it_did() -> None:
    torch.manual_seed(0)
    model = EfficientNet(variant("b0", dropout=0.0, **TINY))
    images = torch.randn(4, 3, 32, 32)
    freeze_backbone(model)
    optimizer = make_optimizer(model, Recipe(lr=0.1, backbone_lr=0.1), CPU)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        features = model.eval().features(images)
    set_training_mode(model)
    assert model.classifier.training
    model(images).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    set_training_mode(model)
    with torch.no_grad():
        assert torch.equal(model.features(images), features)
