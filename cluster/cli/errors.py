"""How a command ends on an error of ours: one line on stderr, an exit code, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ...datasets import EffnetClusterError


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error of ours as one line, `error: …`, and exit with its code."""
    try:
        yield
    except EffnetClusterError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
