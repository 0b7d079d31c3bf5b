"""`effnet-cluster stop`: end an experiment; `resume` can go on with it."""

from __future__ import annotations

import click

from ..home import Home
from ..lifecycle import stop
from .console import stderr_console
from .options import experiment_argument


@click.command("stop")
@experiment_argument
def command(experiment: str) -> None:
    """Stop EXPERIMENT. Its checkpoints and runs stay."""
    stopped = stop(Home.default(), experiment)
    stderr_console().print(
        f"stopped {experiment}; `effnet-cluster resume {experiment}` goes on"
        if stopped
        else f"{experiment} was not running"
    )
