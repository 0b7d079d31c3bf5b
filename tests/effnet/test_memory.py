"""Predicted costs against torch's counters, real parameters, and the peak of real training steps."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

from effnet_cluster.effnet import EfficientNet, EfficientNetConfig
from effnet_cluster.effnet.activations import ACTIVATION_NAMES
from effnet_cluster.effnet.memory import estimate
from effnet_cluster.effnet.naming import variant

from .helpers import meta_model, parameter_count, peak_allocation

pytestmark = pytest.mark.usefixtures("one_thread")

SCALED = ["b0-w1.4", "b0-d2.0", "b0-r1.3", "b0-w1.2-d1.4-r1.1", "b0.5", "b2.5", "b8", "b4-w0.5-r0.5"]


class Training:
    """A model and AdamW, as the training loop has them: gradients outlive the steps, as DDP's buckets do."""

    def __init__(self, config: EfficientNetConfig, batch: int, size: int, **how: bool) -> None:
        self.model = EfficientNet(config, **how).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.shape, self.classes = (batch, 3, size, size), config.num_classes

    def step(self) -> None:
        images = torch.randn(self.shape).to(memory_format=torch.channels_last)
        labels = torch.randint(self.classes, self.shape[:1])
        self.optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(self.model(images), labels, label_smoothing=0.1).backward()
        self.optimizer.step()


def tracked_peak(config: EfficientNetConfig, batch: int, size: int) -> dict[str, int]:
    """Bytes of live tensors by kind at the peak of a step, as torch's own tracker sees them, on any device."""
    training = Training(config, batch, size)
    training.step()
    gradients = [parameter.grad for parameter in training.model.parameters() if parameter.grad is not None]
    tracker = MemTracker()
    tracker.track_external(training.model, training.optimizer, *gradients)
    with tracker:
        training.step()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return {str(kind).rpartition(".")[2]: size for kind, size in peak.items()}


def allocated_peak(config: EfficientNetConfig, batch: int, size: int, **how: bool) -> int:
    """Bytes that torch's CPU allocator had handed out at the peak of two steps, whatever they were for."""

    def train() -> None:
        training = Training(config, batch, size, **how)
        training.step()
        training.step()

    return peak_allocation(train)


@pytest.mark.parametrize("name", SCALED)
def test_the_counts_of_a_scaled_model_are_torchs(name: str) -> None:
    config = variant(name, num_classes=10)
    model = meta_model(config).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.empty(1, 3, config.resolution, config.resolution, device="meta"))
    prediction = estimate(config)
    assert prediction.cost.params == parameter_count(model)
    assert prediction.cost.macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "size", "batch", "options"),
    [
        ("b0", 64, 1, {}),
        ("b0", 96, 16, {"num_classes": 10}),
        ("b0-w1.4", 64, 8, {"activation": "relu"}),
        ("b2", 64, 4, {"shortcut": "identity_conv"}),
        ("b0-d0.5", 64, 2, {"activation": "prelu"}),
    ],
)
def test_training_memory_is_what_torchs_tracker_sees(name: str, size: int, batch: int, options: dict[str, Any]) -> None:
    config = variant(name, **options)
    memory, seen = estimate(config, batch, size).memory, tracked_peak(config, batch, size)
    assert memory.weights == seen["PARAM"]
    assert memory.gradients == seen["GRAD"]
    assert memory.optimizer == pytest.approx(seen["OPT"], rel=1e-3)  # plus a step count for each parameter
    assert memory.activations == pytest.approx(seen["ACT"], rel=0.03)
    assert memory.transient == pytest.approx(seen["TEMP"], rel=0.1, abs=1e5)
    assert memory.total == pytest.approx(seen["Total"], rel=0.02)


@pytest.mark.parametrize(
    ("name", "size", "batch", "options"),
    [
        ("b0", 96, 32, {"num_classes": 10}),
        ("b0", 224, 4, {}),
        ("b0", 128, 8, {"activation": "relu"}),
        ("b1", 96, 16, {"shortcut": "identity_conv"}),
        ("b0-w1.4", 128, 8, {}),
        ("b0.5", 96, 24, {}),
        ("b3", 128, 8, {"num_classes": 5}),
    ],
)
def test_training_memory_is_near_what_the_allocator_gives_out(
    name: str, size: int, batch: int, options: dict[str, Any]
) -> None:
    """Batches that fill it: oneDNN's workspace for depthwise kernels, up to 30 MB in B0, outweighs smaller ones."""
    config = variant(name, **options)
    assert estimate(config, batch, size).memory.total == pytest.approx(allocated_peak(config, batch, size), rel=0.1)


@pytest.mark.parametrize(
    ("name", "size", "batch", "options"),
    [
        ("b0", 96, 32, {}),
        ("b4", 224, 4, {}),
        ("b0", 128, 16, {"activation": "relu"}),
        ("b1", 96, 16, {"shortcut": "identity_conv"}),
        ("resnet50", 96, 16, {"num_classes": 10}),
        ("tf_b0", 96, 16, {"activation": "swish"}),
    ],
)
def test_training_memory_with_checkpointing_is_near_what_the_allocator_gives_out(
    name: str, size: int, batch: int, options: dict[str, Any]
) -> None:
    config = variant(name, **options)
    predicted = estimate(config, batch, size, checkpoint_activations=True).memory.total
    assert predicted == pytest.approx(allocated_peak(config, batch, size, checkpoint_activations=True), rel=0.05)


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_the_prediction_with_checkpointing_knows_every_activations_backward_pass(activation: str) -> None:
    config = variant("b0", depth=0.1, activation=activation, num_classes=10)
    predicted = estimate(config, 32, 64, checkpoint_activations=True).memory.total
    assert predicted == pytest.approx(allocated_peak(config, 32, 64, checkpoint_activations=True), rel=0.03)


def test_only_activations_and_their_gradients_grow_with_the_batch() -> None:
    one, many = (estimate(variant("b0"), batch).memory for batch in (1, 50))
    assert (many.weights, many.gradients, many.optimizer) == (one.weights, one.gradients, one.optimizer)
    assert many.activations == 50 * one.activations
    assert many.transient > one.transient
    assert many.total == many.weights + many.gradients + many.optimizer + many.activations + many.transient


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1 image, not 0"):
        estimate(variant("b0"), 0)
