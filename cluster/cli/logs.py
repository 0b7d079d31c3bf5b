"""`effnet-cluster logs`: what an experiment's job prints."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click

from ...orchestration.errors import UserError
from ...orchestration.logs import LogLine, LogReader
from ..experiments import Experiments
from ..home import Home
from ..jobs import Jobs
from ..lifecycle import reconnect
from .console import print_text, stderr_console
from .options import experiment_argument


@click.command("logs")
@experiment_argument
@click.argument("trial", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the experiment ends.  [Ctrl-C leaves it running]")
def command(experiment: str, trial: str | None, follow: bool) -> None:
    """Print the log of EXPERIMENT, or only the records of one TRIAL."""
    try:
        _print_log(experiment, trial, follow)
    except KeyboardInterrupt:
        if not follow:
            raise


def _print_log(experiment: str, trial: str | None, follow: bool) -> None:
    home = Home.default()
    found = Experiments(home).load(experiment)
    plan = found.request.plan
    trials = list(plan.trials_by_id)
    # A search may have made up trials that the plan does not list.
    if trial is not None and trial not in trials and not plan.spec.search.adaptive:
        raise UserError(f"'{experiment}' has no trial '{trial}'; its trials are {', '.join(trials)}")
    record = reconnect(home, found)
    jobs = Jobs(record.address)
    status = jobs.status(record.job)
    if status == "UNKNOWN":
        raise UserError(f"the cluster at {record.address} no longer has the log of '{experiment}'")
    if status == "PENDING":
        stderr_console().print(f"{experiment} waits to start")
    reader = LogReader()

    def show(lines: Iterable[LogLine]) -> None:
        for line in lines:
            if trial is None or line.trial == trial:
                print_text(line.text)

    async def follow_to_end() -> None:
        async for piece in jobs.follow_logs(record.job):
            show(reader.feed(piece))

    if follow:
        asyncio.run(follow_to_end())
    else:
        show(reader.feed(jobs.logs(record.job)))
    show(reader.close())
