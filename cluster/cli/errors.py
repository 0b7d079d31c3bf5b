"""How a command ends on an error of ours: one line on stderr, an exit code, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ...datasets import EffnetClusterError, one_line, shorten
from .console import print_line

_SHOWN_CHARACTERS = 200


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error of ours, or the system's about a file, as one line, `error: …`, and exit with its code."""
    try:
        yield
    except EffnetClusterError as error:
        print_line(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # click's to handle: whoever read the output has gone
        raise
    except OSError as error:
        file = f"{shorten(str(error.filename), _SHOWN_CHARACTERS)}: " if error.filename else ""
        print_line(f"error: {file}{error.strerror or one_line(error)}", err=True)
        sys.exit(1)
