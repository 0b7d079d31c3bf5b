"""The network against torchvision's, and its own interface."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from effnet_cluster.effnet import VARIANTS, EfficientNet, variant

from .helpers import meta_model, parameter_count

PARAMS_5_CLASSES = {
    "b0": 4_013_953,
    "b1": 6_519_589,
    "b2": 7_708_039,
    "b3": 10_703_917,
    "b4": 17_557_581,
    "b5": 28_351_029,
    "b6": 40_747_229,
    "b7": 63_799_765,
}


def torchvision_model(name: str, **options: Any) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    model: nn.Module = getattr(models, f"efficientnet_{name}")(**options)
    return model


@pytest.mark.parametrize("name", PARAMS_5_CLASSES)
def test_parameters_equal_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision_model(name)
    ours = meta_model(VARIANTS[name])
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert parameter_count(ours) == parameter_count(theirs)


@pytest.mark.parametrize("name", PARAMS_5_CLASSES)
def test_parameters_with_5_classes(name: str) -> None:
    assert parameter_count(meta_model(variant(name, num_classes=5))) == PARAMS_5_CLASSES[name]


def test_drop_rates_equal_torchvisions() -> None:
    with torch.device("meta"):
        theirs = torchvision_model("b3")
    expected = [block.stochastic_depth.p for stage in theirs.features[1:-1] for block in stage if block.use_res_connect]
    ours = [block.drop.rate for stage in meta_model(VARIANTS["b3"]).stages for block in stage if block.shortcut]
    assert ours == pytest.approx(expected)


def test_features_are_the_map_before_pooling() -> None:
    torch.manual_seed(0)
    model = EfficientNet(variant("b0", num_classes=7)).eval()
    images = torch.randn(2, 3, 65, 96)
    with torch.inference_mode():
        features = model.features(images)
        assert features.shape == (2, 1280, 3, 3)
        torch.testing.assert_close(model(images), model.classifier(features.mean(dim=(2, 3))))


def test_stages_and_blocks_are_indexable() -> None:
    model = meta_model(VARIANTS["b0"])
    assert [len(stage) for stage in model.stages] == [1, 2, 2, 3, 3, 4, 1]
    assert model.stages[5][0].depthwise.conv.stride == (2, 2)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = EfficientNet(variant("b0", depth=0.3, width=0.5, num_classes=4, dropout=0.9, stochastic_depth=0.0))
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_the_classifier_starts_uniform() -> None:
    torch.manual_seed(0)
    linear = EfficientNet(variant("b0", depth=0.3, num_classes=25)).classifier
    bound = 25**-0.5
    assert linear.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert linear.weight.abs().max().item() <= bound
    assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not linear.bias.any()


def test_without_squeeze_and_excitation_it_has_the_parameters_less() -> None:
    expected = sum(
        2 * block.expanded_channels * block.squeeze_channels + block.expanded_channels + block.squeeze_channels
        for block in VARIANTS["b0"].blocks
    )
    bare = meta_model(variant("b0", se_ratio=0))
    assert parameter_count(meta_model(VARIANTS["b0"])) - parameter_count(bare) == expected


@pytest.mark.parametrize("shortcut", ["residual", "none", "identity_conv"])
def test_it_learns(shortcut: str) -> None:
    """A few steps on four fixed images must lower the loss: gradients reach the weights with the right sign."""
    torch.manual_seed(0)
    options = {"depth": 0.3, "width": 0.5, "num_classes": 2, "dropout": 0.0, "stochastic_depth": 0.0}
    model = EfficientNet(variant("b0", shortcut=shortcut, **options))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_it_can_be_copied_and_saved() -> None:
    model = EfficientNet(variant("b0", depth=0.3, width=0.5, num_classes=2))
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    pairs = itertools.zip_longest(model.parameters(), twin.parameters())
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ["silu", "relu", "leaky_relu", "mish"])
@pytest.mark.parametrize("name", ["b0-w0.25-d0.5", "resnet50-w0.25"])
def test_a_hook_keeps_what_its_module_has_put_out(name: str, activation: str, training: bool) -> None:
    """Nothing writes into another module's output later, but for activations, into that of the layer before."""
    torch.manual_seed(0)
    model = EfficientNet(variant(name, activation=activation, num_classes=3)).train(training)
    kept: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    activated: set[int] = set()
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "act":
            module.register_forward_pre_hook(lambda _, inputs: activated.add(id(inputs[0])))

        def keep(_: nn.Module, __: Any, output: torch.Tensor, path: str = path) -> None:
            kept[path] = (output, output.detach().clone())

        module.register_forward_hook(keep)
    with torch.set_grad_enabled(training):
        model(torch.randn(2, 3, 64, 64))
    overwritten = {path for path, (output, before) in kept.items() if not torch.equal(output, before)}
    assert len(kept) > 50
    assert all(id(kept[path][0]) in activated for path in overwritten)
    assert not any(path.endswith(("project", "depthwise", "se", "shortcut")) for path in overwritten)
