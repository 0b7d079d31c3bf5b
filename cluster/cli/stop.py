"""`effnet-cluster stop`: end an experiment, or one of its trials; `resume` can go on with it."""

from __future__ import annotations

import click

from ..home import Home
from ..lifecycle import stop, stop_trial
from .console import stderr_console
from .options import experiment_argument


@click.command("stop")
@experiment_argument
@click.argument("trial", required=False)
def command(experiment: str, trial: str | None) -> None:
    """Stop EXPERIMENT, or only one TRIAL of it. Checkpoints and runs stay.

    A trial that runs saves and ends; one that has not started never does. The others go on.
    """
    home, again = Home.default(), f"`effnet-cluster resume {experiment}`"
    if trial is not None:
        outcome = stop_trial(home, experiment, trial)
        told = f"{trial} has ended: {outcome}" if outcome else f"{trial} is asked to end; {again} runs it again"
    elif stop(home, experiment):
        told = f"stopped {experiment}; {again} goes on"
    else:
        told = f"{experiment} was not running"
    stderr_console().print(told, soft_wrap=True)
