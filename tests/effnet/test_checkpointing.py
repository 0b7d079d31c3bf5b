"""Activation checkpointing changes what training remembers, and nothing that it computes."""

import pytest
import torch
from torch import Tensor, nn

from effnet_cluster.effnet import EfficientNet, variant

from .helpers import peak_allocation

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([0, 1, 2, 3])


def images(size: int = 48) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(7))


def step(model: nn.Module) -> None:
    """With dropout and stochastic depth on: both runs of a block must draw the same masks."""
    torch.manual_seed(5)
    nn.functional.cross_entropy(model(images()), LABELS).backward()


def pair(**options: object) -> tuple[EfficientNet, EfficientNet]:
    config = variant("b0", **({"width": 0.5, "depth": 0.6, "num_classes": 4, "stochastic_depth": 0.4} | options))
    torch.manual_seed(3)
    plain = EfficientNet(config)
    saving = EfficientNet(config, checkpoint_activations=True)
    saving.load_state_dict(plain.state_dict())
    return plain.train(), saving.train()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "relu", "shortcut": "identity_conv"},
        {"activation": "rrelu"},
        {"activation": "swish"},
        {"bn_momentum": 0.01, "padding": "same"},
    ],
)
def test_gradients_and_statistics_are_those_of_plain_training(options: dict[str, object]) -> None:
    plain, saving = pair(**options)
    for _ in range(2):
        step(plain)
        step(saving)
    for (name, expected), (_, actual) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert expected.grad is not None, name
        assert actual.grad is not None, name
        assert torch.equal(actual.grad, expected.grad), name
    # Among them BatchNorm's counters, which would be twice as high if the second run counted.
    for (name, expected), (_, actual) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(actual, expected), name


def test_synchronised_batch_norm_can_be_computed_again_too() -> None:
    plain, saving = pair()
    nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    nn.SyncBatchNorm.convert_sync_batchnorm(saving)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in saving.stages.modules())
    step(plain)
    step(saving)
    for expected, actual in zip(plain.parameters(), saving.parameters(), strict=True):
        assert expected.grad is not None
        assert actual.grad is not None
        assert torch.equal(actual.grad, expected.grad)
    for expected, actual in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(actual, expected)


def test_masks_are_random_so_that_drawing_them_again_would_show() -> None:
    plain, _ = pair()
    first, second = plain(images()), plain(images())
    assert not torch.allclose(first, second)


def test_keys_and_evaluation_are_the_plain_models() -> None:
    plain, saving = pair()
    assert list(saving.state_dict()) == list(plain.state_dict())
    assert torch.equal(saving.eval()(images()), plain.eval()(images()))


def test_it_can_be_switched_at_any_time() -> None:
    plain, saving = pair()
    saving.checkpoint_activations = False
    assert kept(saving) == kept(plain)
    plain.checkpoint_activations = True
    assert kept(plain) < 0.4 * kept(saving)


def kept(model: nn.Module) -> int:
    """Bytes that the graph of a forward pass holds."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images())
    assert output.requires_grad
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for pointer, size in storages.items() if pointer not in parameters)


def allocated_peak(model: EfficientNet, batch: int, size: int) -> int:
    """The most bytes that torch's CPU allocator had out at a time in a training step, model and optimizer included."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    before = sum(parameter.nbytes for parameter in model.parameters())
    inputs = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)

    def step() -> None:
        nn.functional.cross_entropy(model(inputs), torch.arange(batch)).backward()
        optimizer.step()

    return before + peak_allocation(step)


def test_b4_at_224_pixels_needs_at_least_40_percent_less_at_its_peak() -> None:
    """A batch of four, so that weights and moments, which no checkpointing shrinks, weigh as they would in practice."""
    peaks = [
        allocated_peak(
            EfficientNet(variant("b4"), checkpoint_activations=saving).to(memory_format=torch.channels_last), 4, 224
        )
        for saving in (False, True)
    ]
    assert peaks[1] < 0.6 * peaks[0], f"{peaks[1] / 2**20:.0f} of {peaks[0] / 2**20:.0f} MiB"
