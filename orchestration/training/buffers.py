"""The floating buffers of modules (BatchNorm's running statistics), which belong to a rank within an epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def local_buffers(*modules: nn.Module) -> Tensor:
    """All of them one after the other, a copy of shape (n,) on the modules' device."""
    buffers = [b.detach().reshape(-1) for module in modules for b in module.buffers() if b.is_floating_point()]
    return torch.cat(buffers) if buffers else torch.empty(0)


def set_local_buffers(values: Tensor, *modules: nn.Module) -> None:
    """The inverse of `local_buffers`."""
    at = 0
    for module in modules:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(values[at : at + buffer.numel()].view_as(buffer))
                at += buffer.numel()
