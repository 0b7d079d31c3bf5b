"""`effnet-cluster bench sweep`: what a sweep was predicted to take against what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click
from rich.table import Table

from ...orchestration.errors import UserError
from ...orchestration.forecast import Forecast
from ...orchestration.plan import make_plan
from ...orchestration.report.quantities import duration
from ...orchestration.spec import ExperimentSpec
from ...orchestration.tracking.records import TrialRecord
from ..engines import Engines
from ..home import Home
from ..jobs import Jobs
from ..lifecycle import launch
from ..predicting import Predictor
from .bench_engines import temporary_engines, wait_for_job
from .console import print_data, print_json, stderr_console

_MAKESPAN = "makespan"


@dataclass(frozen=True)
class _Row:
    """Seconds of a trial, or of a whole sweep with so many trials at a time."""

    round: int
    at_a_time: int
    what: str
    predicted: float
    actual: float

    @property
    def error(self) -> float:
        """How far the prediction was off, as a part of what it took."""
        return self.predicted / self.actual - 1


@click.command("sweep")
@click.option("--variants", default="b0-b4", show_default=True, help="Networks of the sweep.")
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True, help="Passes over the digits.")
@click.option("--at-a-time", default="1,2", show_default=True, help="Numbers of trials that run at a time.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Sweeps of each; after the first, finished trials correct the prediction.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(variants: str, epochs: int, at_a_time: str, rounds: int, as_json: bool) -> None:
    """Measure what a sweep on the digits takes against its prediction.

    The first round is predicted from a probe alone, the others also from the trials before.
    """
    try:
        numbers = [int(part) for part in at_a_time.split(",")]
    except ValueError:
        raise UserError(f"--at-a-time {at_a_time}: expected numbers such as 1,2") from None
    rows: list[_Row] = []
    with temporary_engines() as (home, engines):
        for number in range(1, rounds + 1):
            for most in numbers:
                rows += _measure(home, engines, variants, epochs, most, number)
                stderr_console().print(f"measured round {number}, {most} at a time: {rows[-1].error:+.0%}")
    if as_json:
        print_json([asdict(row) for row in rows], indent=2)
        return
    print_data(_table(rows))


def _measure(home: Home, engines: Engines, variants: str, epochs: int, most: int, number: int) -> list[_Row]:
    fields = {"name": f"sweep-{most}-{number}", "variants": variants, "recipe": {"epochs": epochs}}
    # One core each, so that one at a time and two at a time are the same trials.
    execution = {"max_concurrent": most, "cpus_per_worker": 1}
    spec = ExperimentSpec.parse(fields | {"execution": execution})
    plan = make_plan(spec, home.open_dataset(spec.data))
    forecast = Predictor.at(home, None, may_probe=True).forecast(plan)
    experiment = launch(home, plan, engines, costs=forecast.shares.costs)
    wait_for_job(Jobs(engines.address), experiment.job)
    return _rows(number, most, forecast, experiment.tracker.trials())


def _rows(number: int, most: int, forecast: Forecast, records: Sequence[TrialRecord]) -> list[_Row]:
    """A row per trial, and the makespan's: from the first trial's start to the last one's end."""
    rows = [
        _Row(number, most, record.trial_id, forecast.costs[record.trial_id].seconds, record.elapsed or 0.0)
        for record in records
    ]
    began, ended = min(record.began or 0.0 for record in records), max(record.ended or 0.0 for record in records)
    return [*rows, _Row(number, most, _MAKESPAN, forecast.makespan, ended - began)]


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(title="predicted against actual", title_justify="left")
    for header in ("round", "at a time", "trial", "predicted", "actual", "off by"):
        table.add_column(header, justify="left" if header == "trial" else "right", no_wrap=True)
    for row in rows:
        shown = duration(row.predicted), duration(row.actual), f"{row.error:+.0%}"
        table.add_row(str(row.round), str(row.at_a_time), row.what, *shown, end_section=row.what == _MAKESPAN)
    return table
