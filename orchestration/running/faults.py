"""What is done when a trial's workers fail: which failures are worth another try, and how many."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import EngineError
from ..training.errors import PreemptedError


class Fault(StrEnum):
    """Why a worker group ended."""

    LOST = "lost"
    """A worker, its node or an engine went away."""
    PREEMPTED = "preempted"
    """It was asked to leave."""
    UNPLACED = "no room in the cluster yet"
    """The workers could not be placed within Ray's time: others have what they need."""
    OUT_OF_MEMORY = "out of memory"
    FINAL = "final"
    """An error that would come again: in the code, the data or the numbers."""


# Where Ray's wrappers keep the exception that they wrap.
_WRAPPED = ("_base_exc", "cause", "controller_failure")
_PRECEDENCE = (Fault.PREEMPTED, Fault.UNPLACED, Fault.OUT_OF_MEMORY, Fault.FINAL, Fault.LOST)
# Types by name: Ray wraps exceptions, some types are missing where there is no CUDA, and all of them bring torch.
_MEMORY_TYPES = {"MemoryError", "OutOfMemoryError"}
_LOST_TYPES = {
    "ActorDiedError",
    "ActorUnavailableError",
    "CollectiveTimeoutError",
    "ConnectionError",
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "NodeDiedError",
    "OwnerDiedError",
    "RayActorError",
    "Timeout",
    "TimeoutError",
    "UnavailableError",
    "WorkerCrashedError",
    "WorkerGroupStartupFailedError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
}
# What the libraries beneath say, whose exceptions are plain RuntimeErrors and OSErrors; compared without case. The
# first of these that fits decides. `tests/orchestration/test_faults.py` has whole messages.
_MEMORY_SIGNS = (
    "can't allocate memory",  # torch on the CPU
    "cannot allocate memory",  # the system
    "due to the node running low on memory",  # Ray, where it has killed an actor, such as a worker, to save the node
    "out of memory",  # CUDA
    "alloc_failed",  # cuBLAS, cuDNN
)
_FINAL_SIGNS = (
    "device-side assert",
    "no kernel image",
    "driver version is insufficient",
    "invalid usage",  # NCCL: a call that is wrong, such as two ranks on one GPU
    "invalid argument",
    "out of shared memory",  # /dev/shm is too small for the loader's batches, also the next time
    "access_denied",
    "no_such_bucket",
)
_LOST_SIGNS = (
    "gloo/transport",
    "gloo connectfullmesh",
    "connection closed by peer",
    "connection reset by peer",
    "nccl",
    "cuda error",  # what is left of it: a GPU that fell off the bus, broken memory, a failed launch
    "dataloader worker",  # killed from outside
    "aws error network_connection",
    "aws error slow_down",
    "aws error service_unavailable",
    "aws error internal_failure",
    "aws error request_timeout",
    "curlcode",
)
# Storage and network that may come back. A full disk, a missing file or a refusal would come again.
_LOST_ERRNO = {
    *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.ENOTCONN),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ENETUNREACH, errno.EHOSTUNREACH),
    *(errno.EHOSTDOWN, errno.ENETDOWN, errno.ENETRESET, errno.EREMOTEIO),
}


def cause(error: BaseException) -> BaseException:
    """The exception that a worker's or the controller's code raised, out of Ray's wrappers."""
    while True:
        inner = next((found for name in _WRAPPED if isinstance(found := getattr(error, name, None), Exception)), error)
        if inner is error:
            return error
        error = inner


def classify(error: BaseException) -> Fault:
    """What kind of fault one worker's exception is."""
    error = cause(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, PreemptedError):
        return Fault.PREEMPTED
    if "WorkerGroupStartupTimeoutError" in names:
        return Fault.UNPLACED
    if names & _MEMORY_TYPES:
        # Ray's own means that the node ran out of memory and Ray killed the worker; a smaller batch helps there too.
        return Fault.OUT_OF_MEMORY
    foreign = isinstance(error, RuntimeError | OSError) or names & _LOST_TYPES
    if foreign and (told := _by_message(str(error))):
        return told
    if isinstance(error, EngineError) or names & _LOST_TYPES:
        return Fault.LOST
    if isinstance(error, OSError) and error.errno in _LOST_ERRNO:
        return Fault.LOST
    return Fault.FINAL


def _by_message(message: str) -> Fault | None:
    text = message.lower()
    signs = {Fault.OUT_OF_MEMORY: _MEMORY_SIGNS, Fault.FINAL: _FINAL_SIGNS, Fault.LOST: _LOST_SIGNS}
    return next((fault for fault, found in signs.items() if any(sign in text for sign in found)), None)


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
        """What to do about a fault. Being asked to leave or to wait costs nothing; lack of memory gets one more try."""
        line = _first_line(error)
        if fault in (Fault.PREEMPTED, Fault.UNPLACED):
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


def _first_line(error: BaseException) -> str:
    """The line of a message that says what happened: one that decides, else, of a remote traceback, the last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if _by_message(line)]
    return (told or lines[-1:] or [type(error).__name__])[0]
