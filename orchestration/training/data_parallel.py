"""Data parallelism: the same model on every rank, its gradients averaged over the ranks in the backward pass."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .shared_average import SharedAverage, average_in_shared_memory

_log = logging.getLogger(__name__)
# Statistics are reduced once per epoch instead of copied from rank 0 at every step. torch 2.13 gave the argument a new
# name, and warns of the old one.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_NO_COPIES: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


def data_parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as every rank of the default process group trains it; call it on all ranks at once.

    One rank: the bare model. Several: `DistributedDataParallel`, on CPU ranks of one node with gradients averaged in
    shared memory.

    Raises:
        DistNetworkError: a rank has gone meanwhile.
    """
    if dist.get_world_size() == 1:
        return model
    average = None
    if device.type == "cpu":
        average = SharedAverage.connect(sum(p.nbytes for p in model.parameters() if p.requires_grad))
    ddp = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **_NO_COPIES,
    )
    if average is not None:
        ddp.register_comm_hook(average, average_in_shared_memory)
        if dist.get_rank() == 0:
            _log.info("all ranks are on one node: gradients are averaged in shared memory")
    return ddp
