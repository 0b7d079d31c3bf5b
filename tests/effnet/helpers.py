"""What several test modules of the effnet room share."""

import torch
from torch import Tensor, nn

from effnet_cluster.effnet import EfficientNet, EfficientNetConfig


def meta_model(config: EfficientNetConfig) -> EfficientNet:
    """A model without storage: parameters can be counted and shapes run through it at no cost."""
    with torch.device("meta"):
        return EfficientNet(config)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())
