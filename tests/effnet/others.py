"""Models of other libraries, to compare ours with."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from effnet_cluster.effnet import EfficientNetConfig, variant
from effnet_cluster.effnet.layouts import Source


class Pair(NamedTuple):
    """One of our configs, and the name of the same network elsewhere."""

    variant: str
    source: Source
    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def config(self, **overrides: Any) -> EfficientNetConfig:
        return variant(self.variant, **dict(self.options), **overrides)

    def other(self, **options: Any) -> nn.Module:
        """The other library's model."""
        if self.source == "torchvision":
            models = pytest.importorskip("torchvision.models")
            model: nn.Module = getattr(models, self.name)(**options)
            return model
        created: nn.Module = pytest.importorskip("timm").create_model(self.name, **options)
        return created

    def __str__(self) -> str:
        return f"{self.source}-{self.name}"


# timm gives every EfficientNet torch's BatchNorm, those from TensorFlow but for their eps.
TIMM_TF = (("bn_momentum", 0.1),)
PAIRS = [
    *(Pair(f"b{i}", "torchvision", f"efficientnet_b{i}") for i in range(8)),
    *(Pair(f"b{i}", "timm", f"efficientnet_b{i}", (("norm", "torch"),)) for i in range(8)),
    *(Pair(f"tf_b{i}", "timm", f"tf_efficientnet_b{i}", TIMM_TF) for i in range(8)),
    *(Pair(f"lite{i}", "timm", f"efficientnet_lite{i}") for i in range(5)),
    *(Pair(f"tf_lite{i}", "timm", f"tf_efficientnet_lite{i}", TIMM_TF) for i in range(5)),
    Pair("mobilenetv2", "torchvision", "mobilenet_v2"),
    Pair("mobilenetv2", "timm", "mobilenetv2_100"),
    Pair("resnet50", "torchvision", "resnet50"),
    Pair("resnet50", "timm", "resnet50"),
]


def materialise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model without storage random weights and BatchNorm statistics.

    All from one pool of numbers: drawing 66 million of them for each of many models takes longer than the comparison.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(1 << 22, generator=generator)

    def draw(shape: torch.Size) -> torch.Tensor:
        start = int(torch.randint(len(pool) - shape.numel(), (), generator=generator))
        return pool[start : start + shape.numel()].view(shape)

    model.to_empty(device="cpu")
    for module in model.modules():
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            with torch.no_grad():
                if key == "num_batches_tracked":
                    value.fill_(7)
                elif key == "running_var" or (key == "weight" and isinstance(module, nn.BatchNorm2d)):
                    value.copy_(1 + 0.3 * draw(value.shape).tanh())
                elif key == "weight":
                    value.copy_(draw(value.shape) / math.sqrt(value[0].numel()))
                else:
                    value.copy_(0.2 * draw(value.shape))
    return model


def calibrate(model: nn.Module, images: torch.Tensor) -> None:
    """Set BatchNorm's statistics to those of ``images``.

    With statistics of nothing, signals fade over dozens of layers until the logits are the biases', whatever the image.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
