"""Builds torchvision's own networks, each with one output and the input that its published weights expect."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Those with auxiliary classifiers. They change the normalisation of their input to that of the published weights.
_INCEPTIONS = ("googlenet", "inception_v3")


def torchvision_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Return torchvision's network with fresh weights: images (N, 3, H, W) → logits (N, classes).

    Args:
        name: a name in ``FACTS``.
        num_classes: outputs of the classifier.
        options: further arguments of torchvision's function.
    """
    from torchvision import models

    if name in _INCEPTIONS:
        options |= {"aux_logits": False, "transform_input": True, "init_weights": True}
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return network


def on_meta_device(name: str, num_classes: int) -> nn.Module:
    """Return the same without storage: parameters can be counted and shapes run through it at no cost."""
    try:
        with torch.device("meta"):
            return torchvision_model(name, num_classes)
    except NotImplementedError:  # RegNet computes its widths with tensors
        with torch.random.fork_rng(devices=[]):
            return torchvision_model(name, num_classes).to("meta")
