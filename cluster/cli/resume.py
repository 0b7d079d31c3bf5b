"""`effnet-cluster resume`: run what is left of an experiment."""

from __future__ import annotations

import sys

import click

from ...datasets import open_dataset
from ...orchestration.plan import make_plan
from ..home import Home
from ..lifecycle import resume
from .console import talk
from .following import follow_to_end
from .options import experiment_argument


@click.command("resume")
@experiment_argument
@click.option("--detach", is_flag=True, help="Do not follow the experiment.")
def command(experiment: str, detach: bool) -> None:
    """Go on with EXPERIMENT: finished trials stay, the others continue from their checkpoints in the same runs."""
    home = Home.default()
    record = resume(home, experiment)
    talk().print(f"resumed {experiment} as job {record.job}", highlight=False)
    if detach:
        return
    spec = record.request.spec
    sys.exit(follow_to_end(home, record, make_plan(spec, open_dataset(spec.data, home.cache))))
