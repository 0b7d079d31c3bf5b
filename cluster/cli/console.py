"""Where output goes: data on stdout, talk on stderr. Rich honours NO_COLOR and the width of the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from ..engines import Engines

# Where output is a file or a pipe there is no width to fit; a row must stay one line.
_PIPE_WIDTH = 200


def talk() -> Console:
    """The console for progress and hints."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)


def print_data(table: Table) -> None:
    """Print a result."""
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def print_addresses(engines: Engines, experiment_url: str | None = None) -> None:
    """Say where the web pages are, and how to enter Ray's."""
    console = talk()
    console.print(f"MLflow UI      {experiment_url or engines.tracking_uri}", highlight=False, soft_wrap=True)
    hint = "  (asks for the token that `ray get-auth-token` prints)" if engines.local_ray else ""
    console.print(f"Ray dashboard  {engines.address}{hint}", highlight=False, soft_wrap=True)
