"""`effnet-cluster show`: how the trials of an experiment stand."""

from __future__ import annotations

import click

from ..experiments import Experiments
from ..home import Home
from ..live_table import standing_table
from ..states import standing
from .console import print_data, print_json, print_warnings
from .options import experiment_argument


@click.command("show")
@experiment_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(experiment: str, as_json: bool) -> None:
    """Show EXPERIMENT trial by trial: state, epoch, accuracy and time.

    Starts no engine, and says what it could not ask. The rest is predicted from the trial's own epochs so far.
    """
    home = Home.default()
    record = Experiments(home).load(experiment)
    found = standing(home, record)
    print_warnings(found.unknown)
    if as_json:
        print_json(
            {
                "experiment": record.name,
                "state": found.state,
                "unknown": found.unknown,
                "trials": [trial.to_dict() for trial in found.trials],
            },
            indent=1,
        )
        return
    print_data(standing_table(record.name, found))
