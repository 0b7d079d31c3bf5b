"""Runs the tasks of a large data job on a Ray cluster."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import chdir, contextmanager
from itertools import islice
from typing import Any, TypeVar

import ray

from ..datasets import RAY_SOCKET_BYTES, SAFE_PATH, DataError, Mapper, one_line, socket_folder, with_environment
from .errors import EngineError

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_PER_CPU = 2
_CONNECT_TIMEOUT_S = 10.0


@contextmanager
def ray_tasks(address: str | None) -> Iterator[Mapper]:
    """A mapper (see `datasets.Mapper`) over the CPUs of a Ray cluster; this process is connected to it meanwhile.

    Every node must see the files that the tasks read and write under the same paths, and have this package.

    Args:
        address: of the cluster, as `ray.init` takes it; None: the running instance of this machine or, if there is
            none, a new one that ends with the context.

    Raises:
        EngineError: there is no cluster at the address.
        DataError: no folder for temporary files is short enough for Ray's sockets.
    """
    _require_listener(address)
    # Ray makes its own folder, and the sockets in it, below this one.
    environment = {"TMPDIR": socket_folder(len("/ray") + RAY_SOCKET_BYTES)}
    with tempfile.TemporaryDirectory(prefix="effnet-ray-", ignore_cleanup_errors=True) as empty:
        try:
            # Its workers look for modules in their driver's current folder before anywhere else.
            with chdir(empty), with_environment(SAFE_PATH | environment):
                ray.init(address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, ... by what is wrong with the address
            raise EngineError(f"Ray at {address or 'this machine'}: {one_line(error)}") from error
        try:
            yield _over_ray
        finally:
            ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Ray itself waits for minutes where nobody listens."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        return  # "auto", "local": no address of a machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"Ray at {address}: no answer ({error}); is a Ray head running there?") from error


def _over_ray(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    # A killed node's tasks run again elsewhere: what they write is replaced by the same bytes.
    remote: Any = ray.remote(num_cpus=1, max_retries=3)(_call)
    remaining = iter(tasks)
    window = max(1, int(ray.cluster_resources().get("CPU", 1))) * _TASKS_PER_CPU
    running = [remote.remote(function, task) for task in islice(remaining, window)]
    try:
        while running:
            finished, running = ray.wait(running)
            running += [remote.remote(function, task) for task in islice(remaining, len(finished))]
            for one in finished:
                yield _result(ray.get(one))
    except ray.exceptions.RayError as error:
        line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise EngineError(f"a Ray task failed: {line[0]}; the work that is finished is kept") from error
    finally:
        for one in running:
            ray.cancel(one)


def _call(function: Callable[[Task], Result], task: Task) -> Result | DataError | OSError:
    # As a value: Ray wraps what a task raises into an exception of its own and retries it.
    try:
        return function(task)
    except (DataError, OSError) as error:
        return error


def _result(outcome: Result | DataError | OSError) -> Result:
    if isinstance(outcome, DataError | OSError):
        raise outcome
    return outcome
