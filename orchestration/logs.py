"""The log of a job: one line per record, with its level and, if it is about a trial, the trial in brackets."""

from __future__ import annotations

import logging
import sys

_PACKAGE = __package__.partition(".")[0]


def configure_logging(trial: str | None = None) -> None:
    """Send this package's records of level INFO and above to stderr, marked with `trial`; of others the warnings."""
    mark = f"[{trial}] " if trial else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{mark}%(message)s"))
    package = logging.getLogger(_PACKAGE)
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False
