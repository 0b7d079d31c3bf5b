"""Engines that a benchmark starts and stops: a local Ray and MLflow of their own."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...datasets import shorten
from ...orchestration.errors import EngineError
from ..engines import Engines, ensure_engines
from ..home import Home
from ..jobs import Jobs
from ..services import Services

_POLL_SECONDS = 2.0


@contextmanager
def temporary_engines() -> Iterator[tuple[Home, Engines]]:
    """A temporary home and its engines, on free ports; they do not outlive SIGTERM either."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            yield home, ensure_engines(home, None, None)
        finally:
            services = Services(home)
            for name in ("ray", "mlflow"):
                services.stop(name)
            signal.signal(signal.SIGTERM, before)


def wait_for_job(jobs: Jobs, job: str) -> None:
    """Wait until a submitted job has ended.

    Raises:
        EngineError: it did not complete.
    """
    while jobs.is_active(job):
        time.sleep(_POLL_SECONDS)
    if jobs.status(job) != "SUCCEEDED":
        raise EngineError(f"{job} failed: {shorten(' '.join(jobs.error_lines(job)))}")
