"""`effnet-cluster list`: the experiments of this home."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from rich.table import Table

from ...orchestration.errors import EngineError, UserError
from ..experiments import Experiments
from ..home import Home
from ..services import Services
from ..states import job_state
from .console import print_data, print_json, print_warnings


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(as_json: bool) -> None:
    """Show the experiments, oldest first."""
    home = Home.default()
    experiments = Experiments(home)
    rows = [_row(home, experiments, name) for name in experiments.names()]
    print_warnings(_problems(home, experiments))
    if as_json:
        print_json(rows)
        return
    table = Table("experiment", "state", "trials", "submitted", "data", "address")
    for row in rows:
        table.add_row(*map(str, row.values()))
    print_data(table)


def _problems(home: Home, experiments: Experiments) -> list[str]:
    """The files that keep the states of experiments from being known."""
    try:
        Services(home).running()
    except EngineError as error:
        return [*experiments.problems(), str(error)]
    return experiments.problems()


def _row(home: Home, experiments: Experiments, name: str) -> dict[str, Any]:
    try:
        experiment = experiments.load(name)
    except UserError as error:  # a broken record, or one of another version
        return {"experiment": name, "state": str(error), "trials": "", "submitted": "", "data": "", "address": ""}
    spec = experiment.request.spec
    return {
        "experiment": name,
        "state": job_state(home, experiment) or "unknown",
        "trials": experiment.request.plan.trial_count,
        "submitted": datetime.fromtimestamp(experiment.created).isoformat(" ", "minutes"),
        "data": spec.data,
        "address": "local" if experiment.local_ray else experiment.address,
    }
