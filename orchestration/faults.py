"""What is done when a trial's workers fail: which failures are worth another try, and how many."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .errors import EngineError
from .training.errors import PreemptedError


class Fault(StrEnum):
    """Why a worker group ended."""

    LOST = "lost"
    """A worker, its node or an engine went away."""
    PREEMPTED = "preempted"
    """It was asked to leave."""
    OUT_OF_MEMORY = "out of memory"
    FINAL = "final"
    """An error that would come again: in the code, the data or the numbers."""


_PRECEDENCE = (Fault.PREEMPTED, Fault.OUT_OF_MEMORY, Fault.FINAL, Fault.LOST)
# How the libraries beneath torch.distributed tell that a peer has gone. Their exceptions are plain RuntimeErrors.
_PEER_SIGNS = (
    "gloo/transport",
    "gloo connectFullMesh",
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL",
)
# By name: Ray wraps exceptions, some types cannot be imported where there is no CUDA, and importing any loads torch.
_LOST_TYPES = {
    "ActorDiedError",
    "ActorUnavailableError",
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "NodeDiedError",
    "OwnerDiedError",
    "RayActorError",
    "WorkerCrashedError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
}
_MEMORY_TYPES = {"MemoryError", "OutOfMemoryError"}
# Of torch on the CPU; and of Ray, where it has killed an actor, such as a worker, to save the node.
_MEMORY_SIGNS = ("can't allocate memory", "due to the node running low on memory")


def cause(error: BaseException) -> BaseException:
    """The exception that a worker's code raised, unwrapped from Ray's own."""
    while True:
        inner = getattr(error, "_base_exc", None) or getattr(error, "cause", None)
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner


def classify(error: BaseException) -> Fault:
    """What kind of fault one worker's exception is."""
    error = cause(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, PreemptedError):
        return Fault.PREEMPTED
    if names & _MEMORY_TYPES or _is_about_memory(str(error)):
        # Ray's own means that the node ran out of memory and Ray killed the worker; a smaller batch helps there too.
        return Fault.OUT_OF_MEMORY
    if isinstance(error, EngineError) or names & _LOST_TYPES:
        return Fault.LOST
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PEER_SIGNS):
        return Fault.LOST
    return Fault.FINAL


def decisive(failures: dict[int, Exception]) -> tuple[Fault, BaseException]:
    """The failure that explains the others. A failed rank takes its peers along, which only report that it has gone.

    Args:
        failures: by rank, the exceptions of those that raised one.
    """
    found = [(classify(error), cause(error)) for _, error in sorted(failures.items())]
    return min(found, key=lambda pair: _PRECEDENCE.index(pair[0]))


@dataclass(frozen=True)
class Restart:
    """Go on from the latest checkpoint, with `micro_batch_divisor` times smaller micro-batches."""

    micro_batch_divisor: int = 1


@dataclass(frozen=True)
class GiveUp:
    """The trial has failed, for this reason."""

    reason: str


@dataclass
class FaultPolicy:
    """Decides after every failure of one trial.

    Attributes:
        max_failures: restarts after lost workers.
    """

    max_failures: int
    losses: int = field(default=0, init=False)
    divisor: int = field(default=1, init=False)

    def decide(self, fault: Fault, error: BaseException) -> Restart | GiveUp:
        """What to do about a fault. Being asked to leave costs nothing; a lack of memory gets one more try."""
        line = _first_line(error)
        if fault is Fault.PREEMPTED:
            return Restart(self.divisor)
        if fault is Fault.OUT_OF_MEMORY:
            if self.divisor > 1:
                return GiveUp(f"out of memory also with half the micro-batch; use a smaller --micro-batch: {line}")
            self.divisor = 2
            return Restart(self.divisor)
        if fault is Fault.LOST:
            self.losses += 1
            if self.losses <= self.max_failures:
                return Restart(self.divisor)
            return GiveUp(f"lost workers {self.losses} times, more than --max-failures {self.max_failures}: {line}")
        return GiveUp(line)


def _is_about_memory(text: str) -> bool:
    return any(sign in text for sign in _MEMORY_SIGNS)


def _first_line(error: BaseException) -> str:
    """The line of a message that says what happened: of Ray's report on a node's memory the first one, of a remote
    traceback the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if _is_about_memory(line)]
    return (told or lines[-1:] or [type(error).__name__])[0]
