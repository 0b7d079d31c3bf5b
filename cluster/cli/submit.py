"""`effnet-cluster submit`: plan an experiment, start what is missing, submit it and follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloup

from ...orchestration.spec import ExperimentSpec
from ...orchestration.training.settings import settings_of
from .help_pages import PagedCommand
from .submission import given_fields, submission_options, submit


@cloup.command("submit", cls=PagedCommand)
@submission_options()
def command(spec_file: Path | None, **options: Any) -> None:
    """Train variants × activations × shortcuts × seeds, each trial as a DDP job."""
    flags = {setting.name: options.pop(setting.name) for setting in settings_of(ExperimentSpec)}
    submit(given_fields(spec_file, flags), **options)
