"""An exponential moving average of a network's weights and BatchNorm statistics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
# TensorFlow's: the average takes in 9 tenths of the first step, and its window grows with the run.
_WARM_NUMERATOR, _WARM_DENOMINATOR = 1, 10


def decay_at(updates: int, decay: float) -> float:
    """The share of the old average that update number `updates` (from 0) keeps: min(decay, (1 + n) / (10 + n)).

    `num_updates` of TensorFlow's `ExponentialMovingAverage`. Without it a short run's average would still be what the
    weights were initialised with (timm issue 188).
    """
    return min(decay, (_WARM_NUMERATOR + updates) / (_WARM_DENOMINATOR + updates))


class Ema:
    """Averages a network after every optimizer step.

    Parameters and floating buffers are averaged, BatchNorm's statistics with them as in the reference implementation;
    counters are copied.

    Args:
        network: what is averaged, on its device.
        decay: in [0, 1), for example 0.9999.

    Attributes:
        network: the average, in evaluation mode; the same module with other values.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        # Listed once: training changes these tensors in place and never puts others where they are.
        self._averages, self._counters = _tensors(self.network)
        self._values, self._counts = _tensors(network)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present values."""
        kept = decay_at(self._updates, self._decay)
        torch._foreach_lerp_(self._averages, self._values, 1 - kept)
        if self._counters:
            torch._foreach_copy_(self._counters, self._counts)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"updates": self._updates, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved average."""
        self._updates = int(state["updates"])
        self.network.load_state_dict(state["network"])


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters and floating buffers of a network, and its other buffers."""
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    return floating, [tensor for tensor in tensors if not tensor.is_floating_point()]
