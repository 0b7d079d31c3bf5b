"""The registry of activation functions: data only, so that a plan can be checked without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .validation import check_choice

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ActivationSpec:
    """How to build one activation, and what it costs; calling it with a channel count builds the module.

    Attributes:
        layer: name of the class in ``torch.nn``, or in ``activation_layers`` if ``own``.
        kept: activation-sized tensors that autograd keeps for the backward pass besides the output.
        reads_output: whether the derivative is computed from the output, which the next layer mostly keeps anyway.
        backward: activation-sized tensors that its backward pass makes for a moment, besides the gradient it returns.
        per_channel: whether the activation learns one parameter per channel.
        options: further keyword arguments of the class, as pairs.
        own: whether the class is ours.
    """

    layer: str
    kept: int = 1
    reads_output: bool = False
    backward: int = 0
    per_channel: bool = False
    options: tuple[tuple[str, bool | float | str], ...] = ()
    own: bool = False

    def __call__(self, channels: int) -> nn.Module:
        """Build the module for an input of shape (N, ``channels``, H, W)."""
        source = import_module(".activation_layers" if self.own else "torch.nn", __package__)
        learned = {"num_parameters": channels} if self.per_channel else {}
        module: nn.Module = getattr(source, self.layer)(**dict(self.options), **learned)
        return module

    def parameters(self, channels: int) -> int:
        """The number of parameters of the module that ``self(channels)`` builds."""
        return channels if self.per_channel else 0


# In place where the derivative is computed from the output, which drops a tensor. Where it needs the input (SiLU, Mish,
# Hardswish, ReLU6), autograd clones the input before overwriting it: the same memory and one copy more. What a forward
# hook wants to keep of the layer before an activation it has to copy.
_INPLACE = (("inplace", True),)
_FROM_OUTPUT: Any = {"kept": 0, "reads_output": True}

ACTIVATIONS: Mapping[str, ActivationSpec] = MappingProxyType(
    {
        "silu": ActivationSpec("SiLU", own=True),
        "swish": ActivationSpec("Swish", backward=2, per_channel=True, own=True),
        "relu": ActivationSpec("ReLU", **_FROM_OUTPUT, options=_INPLACE),
        "relu6": ActivationSpec("ReLU6"),
        "leaky_relu": ActivationSpec("LeakyReLU", **_FROM_OUTPUT, options=_INPLACE),
        "prelu": ActivationSpec("PReLU", backward=1, per_channel=True),
        "rrelu": ActivationSpec("RReLU", reads_output=True, own=True),
        "elu": ActivationSpec("ELU", **_FROM_OUTPUT, options=_INPLACE),
        "celu": ActivationSpec("CELU", **_FROM_OUTPUT, options=_INPLACE),
        "selu": ActivationSpec("SELU", **_FROM_OUTPUT, options=_INPLACE),
        "gelu": ActivationSpec("GELU"),
        "gelu_tanh": ActivationSpec("GELU", options=(("approximate", "tanh"),)),
        "mish": ActivationSpec("Mish"),
        "hardswish": ActivationSpec("Hardswish"),
        "softplus": ActivationSpec("Softplus"),
        "softsign": ActivationSpec("Softsign", **_FROM_OUTPUT, own=True),
        "softshrink": ActivationSpec("Softshrink"),
        "hardshrink": ActivationSpec("Hardshrink"),
        "tanhshrink": ActivationSpec("Tanhshrink", backward=1),
        "tanh": ActivationSpec("Tanh", **_FROM_OUTPUT),
        "hardtanh": ActivationSpec("Hardtanh"),
        "sigmoid": ActivationSpec("Sigmoid", **_FROM_OUTPUT),
        "logsigmoid": ActivationSpec("LogSigmoid", **_FROM_OUTPUT, own=True),
        "hardsigmoid": ActivationSpec("Hardsigmoid"),
    }
)
"""Activation name → its factory. The paper's is ``silu`` (its "Swish"); ``swish`` learns its β.

All of torch's that map one tensor to one of its shape without an argument, and the parametric ones.
"""

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
