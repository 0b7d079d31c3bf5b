"""`effnet-cluster list`: the experiments of this home."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from ...orchestration.errors import UserError
from ..experiments import Experiments
from ..home import Home
from ..lifecycle import job_state
from .console import print_data


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(as_json: bool) -> None:
    """Show the experiments, oldest first."""
    home = Home.default()
    experiments = Experiments(home)
    rows = [_row(home, experiments, name) for name in experiments.names()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("experiment", "state", "trials", "submitted", "data", "address")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    print_data(table)


def _row(home: Home, experiments: Experiments, name: str) -> dict[str, Any]:
    try:
        experiment = experiments.load(name)
    except UserError as error:  # another version's record
        return {"experiment": name, "state": str(error), "trials": "", "submitted": "", "data": "", "address": ""}
    spec = experiment.request.spec
    return {
        "experiment": name,
        "state": job_state(home, experiment).lower(),
        "trials": len(spec.combinations()),
        "submitted": datetime.fromtimestamp(experiment.created).isoformat(" ", "minutes"),
        "data": spec.data,
        "address": "local" if experiment.local_ray else experiment.address,
    }
