"""The progress bar of the commands that read much data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...datasets import visible


class Show(Protocol):
    """Moves the bar: how much is done, of how much, and what is being done."""

    def __call__(self, done: int, total: int, what: str | None = None) -> None: ...


@contextmanager
def progress_bar(console: Console, what: str, *, of_bytes: bool = False) -> Iterator[Show]:
    """A bar that counts things, or bytes; it is gone at the end, and not shown where there is no terminal."""
    counter = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), counter, TimeRemainingColumn()
    # Where there is no terminal even a transient bar would leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int, what: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=what and visible(what))

        yield show
