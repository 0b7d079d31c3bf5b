"""`effnet-cluster compare`: trials of one or more experiments side by side."""

from __future__ import annotations

import itertools

import click

from ...orchestration.errors import UserError
from ...orchestration.report.over_seeds import Arm, arms_of, repeated
from ...orchestration.tracking.comparison import ComparisonRow, compare, to_csv, to_json
from ..experiments import Experiments
from ..home import Home
from ..lifecycle import reconnect
from ..live_table import arms_table, comparison_table
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
@click.option("--over-seeds", is_flag=True, help="Means over the seeds alone.")
def command(experiments: tuple[str, ...], form: str, over_seeds: bool) -> None:
    """Compare the trials of EXPERIMENTS.

    Shows their accuracy against parameters, multiply-adds and time. Where trials differ in their seeds alone, a second
    table shows their mean, its spread, and whether it differs from that of the smallest model.
    """
    home = Home.default()
    known = Experiments(home)
    found = [reconnect(home, known.load(name)) for name in experiments]
    objectives = dict.fromkeys(name for one in found for name in one.request.spec.search.objectives)
    by_name = {one.name: one.tracker.trials() for one in found}
    records, names = list(itertools.chain(*by_name.values())), ", ".join(experiments)
    if not records:
        raise UserError(f"{names}: no trial has started yet")
    arms = arms_of(by_name)
    if over_seeds and not arms:
        raise UserError(f"{names}: no trial is completed yet")
    trials = compare(records, list(objectives))
    if form == "table":
        if not over_seeds:
            print_data(comparison_table(trials))
        if over_seeds or repeated(arms):
            print_data(arms_table(arms))
    else:
        rows, kind = (arms, Arm) if over_seeds else (trials, ComparisonRow)
        print_text(to_json(rows) if form == "json" else to_csv(rows, kind), nl=form == "json")
