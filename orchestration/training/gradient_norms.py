"""The norm of the gradient in each part of a network: how much of it reaches the parts nearest to the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn

from ...effnet import EfficientNet
from ...effnet.baselines.network import Baseline
from .metrics import gradient_metric


@dataclass
class GradientNorms:
    """Takes the norms of one step's gradients, over all images of the global batch.

    Args:
        network: the bare one.
    """

    network: nn.Module
    _norms: dict[str, Tensor] = field(default_factory=dict)

    def take(self) -> None:
        """Call it between the backward pass and the optimizer, before gradients are cut. Waits for nothing."""
        for number, (name, modules) in enumerate(_named_parts(self.network).items()):
            gradients = [
                parameter.grad for module in modules for parameter in module.parameters() if parameter.grad is not None
            ]
            if gradients:
                self._norms[gradient_metric(number, name)] = nn.utils.get_total_norm(gradients)

    def metrics(self) -> dict[str, float]:
        """The norms by the names of metrics.

        A part without a gradient, such as a frozen one, is left out, and so is an infinite norm: the first steps in
        float16 may have some, which the scaler skips.
        """
        found = {name: float(norm) for name, norm in self._norms.items()}
        return {name: norm for name, norm in found.items() if math.isfinite(norm)}


def _named_parts(network: nn.Module) -> dict[str, list[nn.Module]]:
    if isinstance(network, EfficientNet):
        parts = network.parts()
        names = ["stem", *(f"stage {number}" for number in range(1, len(parts) - 2)), "head", "classifier"]
        return dict(zip(names, parts, strict=True))
    assert isinstance(network, Baseline)
    parts = network.parts()
    return {f"block {number}": part for number, part in enumerate(parts[:-1], 1)} | {"classifier": parts[-1]}
