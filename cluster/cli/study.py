"""`effnet-cluster study`: the studies of compound scaling and beyond it, each as one experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
import cloup

from ...orchestration.errors import UserError
from ...orchestration.forecast import Fair
from ...orchestration.report.significance import seeds_needed
from ...orchestration.spec import ExperimentSpec
from ...orchestration.studies.presets import STUDIES, comparisons, fill
from .help_pages import PagedCommand
from .submission import given_fields, submission_options, submit

_LISTED = "\n".join(f"  {name:<14}{study.question}" for name, study in STUDIES.items())
_HELP = f"""Answer a question of compound scaling with one experiment.

\b
{_LISTED}

A study is a sweep with settings of its own where you give none. Each arm gets as many seeds as it takes to tell two of
them apart; --budget-hours cuts them, and says what can then not be seen. `report` begins with the study's figures and
tables; `report`, `resume`, `extend` and `compare` take it as any experiment.
"""


@cloup.command("study", cls=PagedCommand, help=_HELP)
@click.argument("study", metavar="STUDY", type=click.Choice(tuple(STUDIES)))
@cloup.option("--base", metavar="LIST", default="b0", show_default=True, help="Networks that are scaled or varied.")
@cloup.option(
    "--fair",
    type=click.Choice(get_args(Fair)),
    default="epochs",
    show_default=True,
    help="What the variants have in common; the largest trains --epochs.",
)
@submission_options(besides=("study",))
def command(study: str, base: str, fair: Fair, spec_file: Path | None, **options: Any) -> None:
    """See `_HELP`."""
    given, others = given_fields(spec_file, options)
    try:
        fields = fill(study, given, [name.strip() for name in base.split(",")])
    except ValueError as error:
        raise UserError(f"--base: {error}") from None
    if "seeds" not in fields:
        spec = ExperimentSpec.parse({"name": study, **fields})
        fields["seeds"] = list(range(seeds_needed(comparisons(spec))))
    submit(fields, fair=fair, **others)
