"""What several test modules of the effnet room share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from effnet_cluster.effnet import EfficientNet, EfficientNetConfig


def meta_model(config: EfficientNetConfig) -> EfficientNet:
    """A model without storage: parameters can be counted and shapes run through it at no cost."""
    with torch.device("meta"):
        return EfficientNet(config)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def peak_allocation(run: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator had out at a time while ``run`` ran, of what it gave out in it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
