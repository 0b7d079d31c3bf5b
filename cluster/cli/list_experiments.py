"""`effnet-cluster list`: the experiments of this home."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click
from rich.table import Table

from ...orchestration.errors import EngineError
from ..experiments import Experiment, Experiments
from ..home import Home
from ..jobs import Jobs
from ..services import Services
from .console import print_data


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(as_json: bool) -> None:
    """Show the experiments, oldest first."""
    home = Home.default()
    experiments = Experiments(home)
    rows = [_row(experiments.load(name), Services(home)) for name in experiments.names()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("experiment", "state", "trials", "submitted", "data", "address")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    print_data(table)


def _row(experiment: Experiment, services: Services) -> dict[str, Any]:
    spec = experiment.request.spec
    return {
        "experiment": experiment.name,
        "state": _state(experiment, services),
        "trials": len(spec.combinations()),
        "submitted": datetime.fromtimestamp(experiment.created).isoformat(" ", "minutes"),
        "data": spec.data,
        "address": "local" if experiment.local_ray else experiment.address,
    }


def _state(experiment: Experiment, services: Services) -> str:
    """The job's status, asked without starting anything; `unknown` where its cluster is gone or does not answer."""
    address = experiment.address
    if experiment.local_ray:
        ray = services.running().get("ray")
        if ray is None:
            return "unknown"
        address = ray.url
    try:
        return Jobs(address).status(experiment.job).lower()
    except EngineError:
        return "unknown"
