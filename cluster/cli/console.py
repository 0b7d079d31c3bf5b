"""Where output goes: results to stdout, messages to stderr, and the user's text as it is, never as markup.

All output of the commands goes through here. Rich honours NO_COLOR and the width of the terminal.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...datasets import visible

# Where output is a file or a pipe there is no width to fit; a row must stay one line.
_PIPE_WIDTH = 200


class _PlainConsole(Console):
    """A console to which text means nothing: no markup, no emoji names, no colours of numbers, no control codes."""

    def __init__(self, *, stderr: bool = False) -> None:
        width = None if _is_terminal(sys.stderr if stderr else sys.stdout) else _PIPE_WIDTH
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by Rich for every text: what is printed, titles and the cells of tables."""
        return super().render_str(visible(text), **options)


def accept_any_text() -> None:
    """Write what stdout and stderr cannot encode with backslashes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stderr_console() -> Console:
    """The console for progress and hints."""
    return _PlainConsole(stderr=True)


def print_data(table: Table) -> None:
    """Print a result."""
    _PlainConsole().print(table)


def print_line(text: str, *, err: bool = False) -> None:
    """Print a line to stdout or stderr. What a terminal would obey is shown instead; line ends within it stay."""
    print_text("\n".join(map(visible, text.split("\n"))), err=err)


def print_warnings(problems: Iterable[str]) -> None:
    """Say on stderr what is wrong but does not keep the command from going on."""
    for problem in problems:
        print_line(f"warning: {problem}", err=True)


def print_text(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text that is another program's to read, as it is, such as a job's log or CSV."""
    # Named, since click would write UTF-8 to its own choice of an ASCII stream.
    click.echo(text, file=sys.stderr if err else sys.stdout, nl=nl)


def print_json(value: Any, *, indent: int | None = None, ascii_only: bool = True) -> None:
    """Print JSON; with `ascii_only` False, other characters are written as they are where stdout takes them."""
    takes_all = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print_text(json.dumps(value, indent=indent, ensure_ascii=ascii_only or not takes_all))


def print_addresses(dashboard: str, mlflow: str, chart: str | None = None) -> None:
    """Say where the web pages are, and how to enter Ray's, which asks for the token."""
    console = stderr_console()
    console.print(f"MLflow UI      {mlflow}", soft_wrap=True)
    if chart:
        console.print(f"MLflow chart   {chart}", soft_wrap=True)
    console.print(f"Ray dashboard  {dashboard}  (its token: `ray get-auth-token`)", soft_wrap=True)


def _is_terminal(stream: TextIO | None) -> bool:
    """A closed stream is None."""
    return stream is not None and stream.isatty()
