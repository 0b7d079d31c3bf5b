"""`effnet-cluster submit`: plan an experiment, start what is missing, submit it and follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloup

from .help_pages import PagedCommand
from .submission import given_fields, submission_options, submit


@cloup.command("submit", cls=PagedCommand)
@submission_options()
def command(spec_file: Path | None, **options: Any) -> None:
    """Train variants × activations × shortcuts × seeds, each trial as a DDP job."""
    fields, others = given_fields(spec_file, options)
    submit(fields, **others)
