"""`effnet-cluster resume`: run what is left of an experiment."""

from __future__ import annotations

import sys

import click

from ..home import Home
from ..lifecycle import resume
from .console import talk
from .following import follow_to_end
from .options import experiment_argument


@click.command("resume")
@experiment_argument
@click.option("--workers", help="DDP workers a trial from now on, such as 4 or 2:4.  [default: as before]")
@click.option("--loader-workers", type=int, help="Loader processes a DDP worker from now on.  [default: as before]")
@click.option("--detach", is_flag=True, help="Do not follow the experiment.")
def command(experiment: str, workers: str | None, loader_workers: int | None, detach: bool) -> None:
    """Go on with EXPERIMENT: finished trials stay, the others continue from their checkpoints in the same runs.

    Other numbers of workers train on the same samples in the same global batches.
    """
    home = Home.default()
    given = {"workers": workers, "loader_workers": loader_workers}
    record = resume(home, experiment, **{name: value for name, value in given.items() if value is not None})
    talk().print(f"resumed {experiment} as job {record.job}", highlight=False)
    if detach:
        return
    sys.exit(follow_to_end(record))
