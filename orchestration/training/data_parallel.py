"""The model as the ranks train it together: gradients are averaged over them at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .shared_average import SharedAverage


def data_parallel(model: nn.Module, device: torch.device) -> tuple[nn.Module, Callable[[], None] | None]:
    """The bare model of a lone rank, else DDP's; and what averages gradients in DDP's place, or None."""
    if dist.get_world_size() == 1:
        return model, None
    ddp = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        # Statistics are reduced once an epoch instead of copied from rank 0 at every step.
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    if device.type != "cpu":
        return ddp, None
    return ddp, SharedAverage.connect([p for p in model.parameters() if p.requires_grad])
