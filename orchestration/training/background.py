"""Work that training does not wait for: one thread, in the order in which it was submitted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """One thread that does what training need not wait for, in the order in which it was asked to.

    An error of a task is raised by the next call.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._pending: list[Future[Any]] = []

    def submit(self, task: Callable[[], object]) -> None:
        """Do `task` after all that was submitted before; raises what one of those raised."""
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            future.result()
        self._pending.append(self._executor.submit(self._unless_failed, task, tuple(self._pending)))

    def wait(self) -> None:
        """Return when everything is done; raises what a task raised."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """`wait`, and end the thread."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    @staticmethod
    def _unless_failed(task: Callable[[], object], before: tuple[Future[Any], ...]) -> None:
        # What follows a checkpoint that was not written would take away the last one that was.
        if not any(future.exception() for future in before):
            task()
