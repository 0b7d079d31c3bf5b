"""How a worker learns that it should save and leave, and all ranks at one step.

Reasons are SIGTERM, a node that will be reclaimed, and a group that will get another size.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

if TYPE_CHECKING:
    from torch import Tensor

# Seconds that workers have to save before their group is resized, and between two looks whether they have.
_GRACE_S, _POLL_S = 30.0, 0.2
# Seconds between two votes: few of a grace time's, and many steps, each of which a collective would make longer.
_VOTE_S = 1.0
_asked = threading.Event()


class SaveBeforeTheEnd(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Makes the workers of a group listen for SIGTERM, and save and leave before Ray Train resizes the group.

    Training runs in a thread of the worker's process, and only the main thread, which runs `listen`, may set handlers.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by Ray Train's controller when the workers of a group are up."""
        worker_group.execute(listen)
        self._group = worker_group

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Called when a group is about to be ended, whatever for."""
        self._group = None

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Called when a group is about to be started, or ended for one of another size."""
        if self._group is None:
            return
        try:
            self._group.execute(leave)
            deadline = time.monotonic() + _GRACE_S
            # Polling also takes the reports that a worker may be waiting to hand over.
            while not self._group.poll_status(_GRACE_S).finished and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        except RayError:  # a worker was lost meanwhile: the next group begins at the last checkpoint
            return


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


def leave() -> None:
    """Ask this worker to leave, as SIGTERM does."""
    _asked.set()


def asked_to_leave() -> bool:
    """Whether this process got SIGTERM, its group will be resized, or Ray announced that one of its nodes will go."""
    return _asked.is_set() or _preempted()


def _preempted() -> bool:
    # `ray.train.get_preemption_info` is a barrier over the ranks, far too slow for every step; this is what it reads.
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        return get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:  # outside of a Ray Train worker
        return False


class Vote:
    """A question that every rank can answer at every step; about once a second all learn whether any said yes.

    A collective over gloo, which overlaps with the step between asking and reading, also beside NCCL. With the votes
    each rank tells how long the steps since the last one took it, so that all count the same steps up to the next.

    Args:
        world_size: number of ranks; every one of them makes its `Vote` at the same point.
        every_s: seconds from a vote to the next; 0 is a vote at every step.
    """

    def __init__(self, world_size: int, every_s: float = _VOTE_S) -> None:
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._every_ms = round(1000 * every_s)
        self._count: tuple[dist.Work, Tensor] | None = (
            None  # under way, and the ballots that it turns into their result
        )
        self._steps = self._left = 1  # from the last vote to the next, and what is left of them
        self._last = time.monotonic()

    def __call__(self, yes: bool) -> bool:
        """Answer; True, on every rank at the same step, if a vote that was cast at the step before has a yes."""
        if self._group is None:
            return yes
        result = self._counted()
        self._left -= 1
        if self._left <= 0:
            now = time.monotonic()
            ballot = torch.tensor([int(yes), round(1000 * (now - self._last))])
            self._last = now
            self._count = dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._group, async_op=True), ballot
        return result

    def _counted(self) -> bool:
        if self._count is None:
            return False
        work, ballot = self._count
        work.wait()
        self._count = None
        yes, longest_ms = ballot.tolist()
        # Never more than twice as many steps as before: what the last ones took may have been an exception.
        self._steps = max(1, min(2 * self._steps, self._steps * self._every_ms // max(1, longest_ms)))
        self._left = self._steps
        return bool(yes)
