"""The registry of activation functions: data only, so that a plan can be checked without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from .validation import check_choice

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ActivationSpec:
    """How to build one activation, and what it costs; calling it with a channel count builds the module.

    Attributes:
        layer: name of the class in ``torch.nn``.
        kept: activation-sized tensors that autograd keeps for the backward pass besides the output. 0 means that the
            derivative is computed from the output, which the next layer keeps anyway.
        per_channel: whether the activation learns one parameter a channel.
        options: further keyword arguments of the class, as pairs.
    """

    layer: str
    kept: int = 1
    per_channel: bool = False
    options: tuple[tuple[str, bool | float | str], ...] = ()

    def __call__(self, channels: int) -> nn.Module:
        """Build the module for an input of shape (N, ``channels``, H, W)."""
        from torch import nn

        own = {"num_parameters": channels} if self.per_channel else {}
        module: nn.Module = getattr(nn, self.layer)(**dict(self.options), **own)
        return module

    def parameters(self, channels: int) -> int:
        """The number of parameters of the module that ``self(channels)`` builds."""
        return channels if self.per_channel else 0


# In place exactly where the derivative needs the output alone (`kept=0`): that drops a tensor. Where it needs the input
# (SiLU, Mish, Hardswish, ReLU6), autograd clones the input before overwriting it: the same memory and one copy more.
_INPLACE = (("inplace", True),)

ACTIVATIONS: Mapping[str, ActivationSpec] = MappingProxyType(
    {
        "silu": ActivationSpec("SiLU"),
        "relu": ActivationSpec("ReLU", kept=0, options=_INPLACE),
        "relu6": ActivationSpec("ReLU6"),
        "leaky_relu": ActivationSpec("LeakyReLU", kept=0, options=_INPLACE),
        "prelu": ActivationSpec("PReLU", per_channel=True),
        "rrelu": ActivationSpec("RReLU", kept=2),  # its input and the random slopes
        "elu": ActivationSpec("ELU", kept=0, options=_INPLACE),
        "celu": ActivationSpec("CELU", kept=0, options=_INPLACE),
        "selu": ActivationSpec("SELU", kept=0, options=_INPLACE),
        "gelu": ActivationSpec("GELU"),
        "gelu_tanh": ActivationSpec("GELU", options=(("approximate", "tanh"),)),
        "mish": ActivationSpec("Mish"),
        "hardswish": ActivationSpec("Hardswish"),
        "softplus": ActivationSpec("Softplus"),
        "softsign": ActivationSpec("Softsign", kept=2),  # its input and 1 + |input|
        "tanh": ActivationSpec("Tanh", kept=0),
        "hardtanh": ActivationSpec("Hardtanh"),
        "sigmoid": ActivationSpec("Sigmoid", kept=0),
    }
)
"""Activation name → its factory. The paper's is ``silu`` (Swish)."""

ACTIVATION_NAMES = tuple(ACTIVATIONS)


def activation_spec(name: str) -> ActivationSpec:
    """Look an activation up.

    Raises:
        ValueError: the name is not registered; the message lists the known names.
    """
    check_choice("activation", name, ACTIVATION_NAMES)
    return ACTIVATIONS[name]


def make_activation(name: str, channels: int) -> nn.Module:
    """Build the activation ``name`` for an input of shape (N, ``channels``, H, W).

    Raises:
        ValueError: the name is not registered; the message lists the known names.
    """
    return activation_spec(name)(channels)
