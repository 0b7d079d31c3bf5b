"""The totals of an epoch: losses, receipt and points of the step curves, kept on the device until they are read."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ...datasets import Batch, Corrupt, merge_receipts, receipt
from .checkpoint import TrainingProgress
from .collectives import sum_over_ranks
from .metrics import StepPoint

_NEVER = float("inf")


class Totals(NamedTuple):
    """What all ranks came to since the epoch began; the sums are means over the ranks.

    `first_bad` is the first batch of the epoch whose loss was infinite or NaN on any rank, None if there was none.
    """

    receipt: int
    samples: int
    loss_sum: float
    interval_sum: float
    points: list[StepPoint]
    first_bad: int | None


class EpochTotals:
    """Adds up the steps of one epoch on one rank. Nothing is read from the device before it is asked for.

    Args:
        progress: where the epoch goes on; rank 0 carries on its counts, which are those of all ranks.
        device: of the losses.
        rank: of this process.
        interval: batches per point of the step curves.
    """

    def __init__(self, progress: TrainingProgress, device: torch.device, rank: int, interval: int) -> None:
        self._device = device
        self._rank = rank
        self._interval = interval
        self._receipt, self._samples = (progress.receipt, progress.samples) if rank == 0 else (0, 0)
        self._loss_sum = self._scalar(progress.loss_sum)
        self._interval_sum = self._scalar(progress.interval_sum)
        self._first_bad = self._scalar(_NEVER)
        self._points: list[tuple[int, Tensor, float]] = []
        self.corrupt: list[Corrupt] = []

    def add(self, batch: Batch, loss: Tensor, number: int, step: int, lr: float) -> bool:
        """Count a step; returns whether it ended an interval.

        Args:
            batch: this rank's slice of the global batch.
            loss: its mean loss, on the device.
            number: of the batch in the epoch.
            step: of the optimizer in the run, from 0.
            lr: the learning rate that was used.
        """
        self._receipt = merge_receipts(self._receipt, receipt(batch.positions.numpy(), batch.sample_ids.numpy()))
        self._samples += len(batch.sample_ids)
        self.corrupt += batch.corrupt
        self._loss_sum += loss
        self._interval_sum += loss
        bad = torch.where(torch.isfinite(loss), _NEVER, float(number))
        torch.minimum(self._first_bad, bad, out=self._first_bad)
        if (number + 1) % self._interval:
            return False
        self._points.append((step + 1, self._interval_sum / self._interval, lr))
        self._interval_sum = self._scalar(0.0)
        return True

    def first_bad(self) -> int | None:
        """The first batch whose loss was infinite or NaN on any rank, None if there was none: a collective.

        Gradients are averaged, so one step later the losses of all ranks are infinite or NaN: the least of the ranks'
        first batches is the one in which it began.
        """
        dist.all_reduce(self._first_bad, op=dist.ReduceOp.MIN)
        first = self._first_bad.item()
        return None if first == _NEVER else int(first)

    def take_points(self) -> list[StepPoint]:
        """The new points of the step curves: a collective that leaves all sums as they are."""
        if not self._points:
            return []
        means = sum_over_ranks(torch.stack([loss for _, loss, _ in self._points])) / dist.get_world_size()
        points = [StepPoint(step, loss, lr) for (step, _, lr), loss in zip(self._points, means.tolist(), strict=True)]
        self._points = []
        return points

    def reduce(self) -> Totals:
        """Combine what the ranks have: a collective, after which every rank goes on from the same sums.

        An undisturbed run does so where an interrupted one goes on, so that their curves are equal to the last bit.
        """
        points = self.take_points()
        sums = sum_over_ranks(torch.stack([self._loss_sum, self._interval_sum])) / dist.get_world_size()
        # uint64 receipts travel as int64: addition wraps alike.
        signed = self._receipt - (1 << 64) if self._receipt >= 1 << 63 else self._receipt
        counts = torch.tensor([signed, self._samples], dtype=torch.int64, device=self._device)
        total, samples = sum_over_ranks(counts).tolist()
        consumed = int(total) % (1 << 64)
        self._loss_sum, self._interval_sum = sums[0].clone(), sums[1].clone()
        self._receipt, self._samples = (consumed, int(samples)) if self._rank == 0 else (0, 0)
        loss_sum, interval_sum = sums.tolist()
        return Totals(consumed, int(samples), loss_sum, interval_sum, points, self.first_bad())

    def _scalar(self, value: float) -> Tensor:
        return torch.full((), value, dtype=torch.float64, device=self._device)  # unlike `tensor`, waits for nothing
