"""Preemption: how a rank learns that it should save and leave, and how all ranks do so at the same step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor

# Seconds between two votes: short beside the grace time that a node gets, long beside a step, which a vote slows down.
_VOTE_S = 1.0
_asked = threading.Event()


def listen() -> None:
    """Note the first SIGTERM instead of ending; a second one does what it did before. Needs the main thread."""
    _asked.clear()
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        if _asked.is_set():
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        _asked.set()

    signal.signal(signal.SIGTERM, note)


def ask_to_leave() -> None:
    """Ask this process to save and leave, as SIGTERM does."""
    _asked.set()


def asked_to_leave() -> bool:
    """Whether this process was asked to save and leave."""
    return _asked.is_set()


class PreemptionConsensus:
    """Tells all ranks at the same step that one of them wants to leave.

    About once per second the ranks vote. The vote is a collective over gloo, also beside NCCL; it overlaps with a step.
    Each rank adds how long the steps since the last vote took it, so that all count the same steps up to the next.

    Args:
        world_size: number of ranks; all of them construct it at the same point.
        every_s: seconds from a vote to the next; 0 is a vote at every step.

    Attributes:
        seconds: how long training has gone on; with several ranks, the same number on all of them at a step.
    """

    def __init__(self, world_size: int, every_s: float = _VOTE_S) -> None:
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._every_ms = round(1000 * every_s)
        # The collective under way, and the tensor of this rank's vote, which becomes the result.
        self._under_way: tuple[dist.Work, Tensor] | None = None
        self._steps = self._left = 1  # from the last vote to the next, and what is left of them
        self._last = time.monotonic()
        self.seconds = 0.0

    def __call__(self, wants_to_leave: Callable[[], bool]) -> bool:
        """Return whether to leave: on every rank at the same step, the one after a vote in which any rank wanted to.

        Args:
            wants_to_leave: called on all ranks at the same steps, those with a vote; a lone rank has one at each.
        """
        if self._group is None:
            now = time.monotonic()
            self.seconds += now - self._last
            self._last = now
            return wants_to_leave()
        result = self._result()
        self._left -= 1
        if self._left <= 0:
            now = time.monotonic()
            vote = torch.tensor([int(wants_to_leave()), round(1000 * (now - self._last))])
            self._last = now
            self._under_way = dist.all_reduce(vote, dist.ReduceOp.MAX, group=self._group, async_op=True), vote
        return result

    def _result(self) -> bool:
        if self._under_way is None:
            return False
        work, vote = self._under_way
        work.wait()
        self._under_way = None
        leave, longest_ms = vote.tolist()
        self.seconds += longest_ms / 1000
        # Never more than twice as many steps as before: what the last ones took may have been an exception.
        self._steps = max(1, min(2 * self._steps, self._steps * self._every_ms // max(1, longest_ms)))
        self._left = self._steps
        return bool(leave)
