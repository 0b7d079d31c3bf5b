"""One optimizer step of one rank: forward and backward in micro-batches, reduction over the ranks, update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from .ema import Ema


@dataclass
class TrainStep:
    """Makes optimizer steps of the share of a global batch that this rank has.

    Gradients of the micro-batches add up and are reduced over the ranks once, with the last one. A step then equals
    that of the whole batch at once, up to rounding, except that BatchNorm normalises each micro-batch by itself.

    Attributes:
        model: bare, or in `DistributedDataParallel`; takes uint8 images.
        optimizer: of the bare network's parameters.
        loss: mean over a micro-batch; labels are int64 (N,) or float (N, classes).
        autocast: context of the forward pass.
        scaler: of the gradients; one that is not enabled does nothing.
        micro_batch: images at a time.
        clip: largest norm of the whole gradient, or None.
        ema: averages the weights after every step, or None.
        keeps_gradients: whether gradients add up in tensors that stay. Needed where CUDA graphs are replayed: each
            replay writes its gradients into the same memory, over those of the micro-batch before.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    autocast: torch.autocast
    scaler: torch.amp.GradScaler
    micro_batch: int
    clip: float | None = None
    ema: Ema | None = None
    keeps_gradients: bool = False

    def __post_init__(self) -> None:
        if self.keeps_gradients:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

    def __call__(self, images: Tensor, labels: Tensor, observe: Callable[[], None] | None = None) -> Tensor:
        """Take a step; returns the mean loss of this rank's share, a scalar on the device, without waiting for it.

        Args:
            images: (N, 3, H, W) on the device, N a multiple of `micro_batch`.
            labels: on the device.
            observe: called when the parameters have the gradients of the global batch's loss, before they are cut.
        """
        self.optimizer.zero_grad(set_to_none=not self.keeps_gradients)
        total = self._backward(torch.split(images, self.micro_batch), torch.split(labels, self.micro_batch))
        if self.clip is not None or observe is not None:
            self.scaler.unscale_(self.optimizer)
        if observe is not None:
            observe()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        return total

    def _backward(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        last = len(images) - 1
        for number, (some, targets) in enumerate(zip(images, labels, strict=True)):
            ddp = self.model if isinstance(self.model, DistributedDataParallel) else None
            with ddp.no_sync() if ddp is not None and number < last else contextlib.nullcontext():
                with self.autocast:
                    loss = self.loss(self.model(some), targets) / len(images)
                self.scaler.scale(loss).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total
