"""`effnet-cluster compare`: trials of one or more experiments side by side."""

from __future__ import annotations

import click

from ...orchestration.errors import UserError
from ...orchestration.tracking.comparison import compare, to_csv, to_json
from ..experiments import Experiments
from ..home import Home
from ..lifecycle import reconnect
from ..live_table import comparison_table
from .console import print_data, print_text


@click.command("compare")
@click.argument("experiments", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Form of output.",
)
def command(experiments: tuple[str, ...], form: str) -> None:
    """Compare the trials of EXPERIMENTS.

    Shows their accuracy against parameters, multiply-adds and time.
    """
    home = Home.default()
    known = Experiments(home)
    found = [reconnect(home, known.load(name)) for name in experiments]
    objectives = dict.fromkeys(name for one in found for name in one.request.spec.search.objectives)
    rows = compare([record for one in found for record in one.tracker.trials()], list(objectives))
    if not rows:
        raise UserError(f"{', '.join(experiments)}: no trial has started yet")
    if form == "table":
        print_data(comparison_table(rows))
    else:
        print_text(to_json(rows) if form == "json" else to_csv(rows), nl=form == "json")
