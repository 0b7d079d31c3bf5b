"""`effnet-cluster logs`: what an experiment's job prints."""

from __future__ import annotations

import time

import click

from ...orchestration.errors import UserError
from ..experiments import Experiments
from ..home import Home
from ..jobs import Jobs
from ..lifecycle import reconnect
from .options import experiment_argument

_POLL_S = 1.0


@click.command("logs")
@experiment_argument
@click.argument("trial", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the experiment ends.")
def command(experiment: str, trial: str | None, follow: bool) -> None:
    """Print the log of EXPERIMENT, or only the lines of one TRIAL."""
    home = Home.default()
    record = reconnect(home, Experiments(home).load(experiment))
    jobs = Jobs(record.address)
    if jobs.status(record.job) == "UNKNOWN":
        raise UserError(f"the cluster at {record.address} no longer has the log of '{experiment}'")
    printed = 0
    while True:
        active = jobs.is_active(record.job)
        lines = jobs.logs(record.job).splitlines()
        for line in lines[printed:]:
            if trial is None or f"[{trial}]" in line:
                click.echo(line)
        printed = len(lines)
        if not (follow and active):
            return
        time.sleep(_POLL_S)
