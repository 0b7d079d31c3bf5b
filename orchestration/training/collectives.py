"""Collectives over the DDP ranks of one trial: BatchNorm statistics, the check that ranks agree, exact evaluation.

Functions that communicate wait for every rank, so call them on all ranks. A lone rank keeps its own values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ...datasets import Batch
from .errors import RanksDisagreeError

T = TypeVar("T")
_PIECE_BYTES = 64 * 1024**2


@contextmanager
def lone_rank() -> Iterator[None]:
    """A default process group of this process alone, for as long as the context lasts."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_buffers(*modules: nn.Module) -> Tensor:
    """The modules' floating-point buffers one after the other: a copy of shape (n,) on their device."""
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


def average_buffers(model: nn.Module) -> None:
    """Average the floating-point buffers (BatchNorm's running statistics) over the ranks.

    Each rank's statistics saw only its slice of the batches. Without this, what rank 0 saves is not what the other
    ranks evaluated (timm issue 45).
    """
    if dist.get_world_size() == 1:
        return
    flat = sum_over_ranks(local_buffers(model))
    set_local_buffers(flat / dist.get_world_size(), model)


def broadcast_buffers(model: nn.Module) -> None:
    """Copy rank 0's floating-point buffers to all ranks: the alternative to `average_buffers`."""
    flat = local_buffers(model)
    dist.broadcast(flat, src=0)
    set_local_buffers(flat, model)


def state_hash(model: nn.Module) -> Tensor:
    """Hash of the exact bits of all float32 parameters and buffers, int64 of shape (2,), on the model's device."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.dtype == torch.float32]
    total = torch.zeros(2, dtype=torch.int64, device=tensors[0].device)
    for number, tensor in enumerate(tensors, start=1):
        bits = tensor.detach().contiguous().reshape(-1).view(torch.int32).to(torch.int64)
        # The second sum weighs each value by its place, so that swapped values show; int64 wraps, which is fine.
        place = torch.arange(1, bits.numel() + 1, device=bits.device)
        total[0] += bits.sum() * number
        total[1] += (bits * place).sum() * number
    return total


def check_ranks_agree(model: nn.Module, epoch: int) -> int:
    """Compare every rank's parameters and buffers to the last bit; returns how many ranks agree, which is all of them.

    Raises:
        RanksDisagreeError: on every rank, where any two differ.
    """
    mine = state_hash(model)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    odd = [rank for rank, theirs in enumerate(everyone) if not torch.equal(theirs, everyone[0])]
    if odd:
        raise RanksDisagreeError(f"after epoch {epoch} the parameters of rank {odd[0]} differ from those of rank 0")
    return len(everyone)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The elementwise sum over the ranks; int64 wraps modulo 2^64."""
    dist.all_reduce(values)
    return values


def mean_over_ranks(value: float, device: torch.device) -> float:
    """The mean of a number over the ranks."""
    total = sum_over_ranks(torch.tensor(value, dtype=torch.float64, device=device))
    return float(total.item()) / dist.get_world_size()


def smallest_over_ranks(value: int, device: torch.device) -> int:
    """The least of a number over the ranks."""
    least = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return int(least.item())


def broadcast_object(value: T) -> T:
    """Rank 0's value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_bytes(content: bytes, device: torch.device) -> bytes:
    """Rank 0's bytes, on every rank; through `device` in pieces, which need not hold all of them at once."""
    size = broadcast_object(len(content))
    own = torch.frombuffer(bytearray(content) if dist.get_rank() == 0 else bytearray(size), dtype=torch.uint8)
    for piece in torch.split(own, _PIECE_BYTES):
        sent = piece.to(device)
        dist.broadcast(sent, src=0)
        piece.copy_(sent)
    return own.numpy().tobytes()


def gather_over_ranks(items: list[T]) -> list[T]:
    """The ranks' lists one after the other."""
    everyone: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, items)
    return [item for theirs in everyone for item in theirs]


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], device: torch.device, amp: torch.autocast
) -> dict[str, float | int]:
    """Top-1, top-5 and cross-entropy over every sample exactly once, whatever the number of ranks.

    Ranks pad their last batches with masked samples; the masked counts are summed as integers, so that the accuracy is
    the same number for any number of ranks. Returns `top1`, `top5` (fractions), `loss` (mean nats) and `samples`.
    """
    model.eval()
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        images, labels, mask = (t.to(device, non_blocking=True) for t in (batch.images, batch.labels, batch.mask))
        with amp:
            logits = model(images).float()
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = (top == labels[:, None]) & mask[:, None]
        counts += torch.stack([hits[:, 0].sum(), hits.sum(), mask.sum()])
        loss += (F.cross_entropy(logits, labels, reduction="none").double() * mask).sum()
    sum_over_ranks(counts)
    sum_over_ranks(loss)
    top1, top5, samples = counts.tolist()
    return {"top1": top1 / samples, "top5": top5 / samples, "loss": loss.item() / samples, "samples": samples}
