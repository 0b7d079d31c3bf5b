"""Mistakes of the user's end in one line on stderr, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ...datasets import DataError
from ...orchestration.errors import UserError


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Print what the user can correct as `error: …` and exit with its code."""
    try:
        yield
    except UserError as error:
        _leave(error, error.exit_code)
    except DataError as error:
        _leave(error, 2)


def _leave(error: Exception, code: int) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(code)
