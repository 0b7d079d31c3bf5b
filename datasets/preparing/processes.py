"""Running the tasks of a large job: one after the other in this process, or in several processes.

Callers can bring another mapper, for example over a cluster: functions and tasks can be pickled, and the result of a
task does not depend on where or when it runs.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

from ..errors import DataError
from ..surroundings import SAFE_PATH, with_environment

Task = TypeVar("Task")
Result = TypeVar("Result")

# Enough that no worker waits for the next task, few enough that the tasks of a huge source are not all pickled at once.
_TASKS_PER_WORKER = 2


class Mapper(Protocol):
    """Applies a function to tasks; yields the results in any order, and raises what the function raises.

    Closing the generator before its end begins no further task, and waits for or stops those that have begun.
    """

    def __call__(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], /
    ) -> Generator[Result, None, None]: ...


def serially(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    """The mapper that does one task after the other in this process."""
    yield from map(function, tasks)


def processes(workers: int | None = None) -> Mapper:
    """A mapper over so many processes; default: one for each core that this process may use.

    A script that uses it needs the usual `if __name__ == "__main__":` around its main part.

    Raises:
        DataError: fewer than one worker.
    """
    count = usable_cores() if workers is None else workers
    if count < 1:
        raise DataError(f"there must be at least 1 worker, got {count}")
    if count == 1:
        return serially

    def run(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        remaining = iter(tasks)
        first = list(islice(remaining, count * _TASKS_PER_WORKER))
        # fork would copy the threads' locks of a caller that has threads
        context = multiprocessing.get_context("spawn")
        with with_environment(SAFE_PATH):
            pool = ProcessPoolExecutor(max(1, min(count, len(first))), context, _begin_worker)
        try:
            with _ctrl_c_blocked(), with_environment(SAFE_PATH):
                running: set[Future[Any]] = {pool.submit(function, task) for task in first}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                with _ctrl_c_blocked(), with_environment(SAFE_PATH):
                    running |= {pool.submit(function, task) for task in islice(remaining, len(finished))}
                yield from (future.result() for future in finished)
        except BrokenProcessPool as error:
            raise DataError("a worker process died, of too little memory perhaps; try fewer workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return run


def usable_cores() -> int:
    """Cores that this process may run on; fewer than the machine has under taskset, Slurm and the like."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Ctrl-C reaches the whole process group, but what to do about it is the parent's to decide.

    Processes that are started meanwhile are deaf to it from their first instruction on; a signal to this one waits.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    # A worker of a pool waits for tasks for ever when its parent was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
