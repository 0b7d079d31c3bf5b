"""Where output goes: results to stdout, messages to stderr. Rich honours NO_COLOR and the width of the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

# Where output is a file or a pipe there is no width to fit; a row must stay one line.
_PIPE_WIDTH = 200


def stderr_console() -> Console:
    """The console for progress and hints."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)


def print_data(table: Table) -> None:
    """Print a result."""
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_addresses(dashboard: str, mlflow: str) -> None:
    """Say where the web pages are, and how to enter Ray's, which asks for the token."""
    console = stderr_console()
    console.print(f"MLflow UI      {mlflow}", highlight=False, soft_wrap=True)
    console.print(f"Ray dashboard  {dashboard}  (its token: `ray get-auth-token`)", highlight=False, soft_wrap=True)
