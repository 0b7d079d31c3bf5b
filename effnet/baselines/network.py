"""``Baseline``: one of torchvision's networks, with the interface of ``EfficientNet``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .building import on_meta_device, torchvision_model
from .config import BaselineConfig


class Baseline(nn.Module):
    """One of torchvision's networks, with fresh weights of torchvision's initialisation.

    Attributes:
        config: what it was built from.
        network: torchvision's module.
    """

    def __init__(self, config: BaselineConfig, *, meta: bool = False) -> None:
        """``meta``: without storage, to know its shapes."""
        super().__init__()
        self.config = config
        if meta:
            self.network = on_meta_device(config.name, config.num_classes)
            return
        has_depth = config.facts.stochastic_depth is not None
        options = {"stochastic_depth_prob": config.stochastic_depth} if has_depth else {}
        self.network = torchvision_model(config.name, config.num_classes, **options)
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
            if isinstance(module, _BatchNorm):
                module.momentum = config.bn_momentum

    @property
    def classifier(self) -> nn.Linear | nn.Conv2d:
        """The last layer with weights: linear, or SqueezeNet's 1x1 convolution, of which the mean is the logits."""
        layer = self.get_submodule(self.config.classifier_name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return layer

    def parts(self) -> list[list[nn.Module]]:
        """The network from input to classifier, cut at its blocks, each of which has weights besides norms."""
        parts: list[list[nn.Module]] = []
        for block in self.blocks():
            if any(parameter.ndim > 1 for parameter in block.parameters()):
                parts.append([block])
            elif parts:
                parts[-1].append(block)
        return parts

    def blocks(self) -> list[nn.Module]:
        """Torchvision's modules in the order of the forward pass; of sequences, those within."""
        return [
            block
            for child in self.network.children()
            for block in (child.children() if isinstance(child, nn.Sequential) else [child])
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W), floats normalised with ImageNet's statistics, to logits (N, classes)."""
        logits: Tensor = self.network(x)
        return logits

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every module. MNASNet wants to read a version beside the tensors, which not every state dict keeps."""
        if not hasattr(state_dict, "_metadata"):
            state_dict = OrderedDict(state_dict)
            state_dict._metadata = self.state_dict()._metadata  # type: ignore[attr-defined]
        return super().load_state_dict(state_dict, strict, assign)
