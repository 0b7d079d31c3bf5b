"""Mistakes of the user's end in one line on stderr, without a traceback."""

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
