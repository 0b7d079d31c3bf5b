"""How a worker learns that it should leave (SIGTERM, a node about to be reclaimed), and all ranks at one step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

if TYPE_CHECKING:
    from torch import Tensor

_asked = threading.Event()


class ListenForTermination(WorkerGroupCallback):  # type: ignore[misc]
    """Makes the workers of a group listen for SIGTERM.

    Training runs in a thread of the worker's process, and only the main thread, which runs this, may set handlers.
    """

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by Ray Train's controller when the workers of a group are up."""
        worker_group.execute(listen)


def listen() -> None:
    """Note the first SIGTERM instead of dying of it; a second one does what it did before."""
    _asked.clear()
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        if _asked.is_set():
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        _asked.set()

    signal.signal(signal.SIGTERM, note)


def asked_to_leave() -> bool:
    """Whether this process got SIGTERM or Ray announced that a node of this worker group will be reclaimed."""
    return _asked.is_set() or _preempted()


def _preempted() -> bool:
    # `ray.train.get_preemption_info` is a barrier over the ranks, far too slow for every step; this is what it reads.
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        return get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:  # outside of a Ray Train worker
        return False


class Vote:
    """A question that every rank answers at every step; all learn one step later whether any said yes.

    A collective over gloo, which overlaps with the step between asking and reading, also beside NCCL.

    Args:
        world_size: number of ranks; every one of them makes its `Vote` at the same point.
    """

    def __init__(self, world_size: int) -> None:
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._ballot: Tensor = torch.zeros(1, dtype=torch.int32)
        self._count: dist.Work | None = None

    def __call__(self, yes: bool) -> bool:
        """Cast this step's vote; returns the result of the step before, which is the same on every rank."""
        if self._group is None:
            return yes
        if self._count is not None:
            self._count.wait()
        result = bool(self._ballot.item())
        self._ballot = torch.tensor([int(yes)], dtype=torch.int32)
        self._count = dist.all_reduce(self._ballot, group=self._group, async_op=True)
        return result
