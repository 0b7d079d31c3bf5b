"""Follow an experiment to its end and print the comparison of its trials; shared by `submit` and `resume`."""

from __future__ import annotations

from ...orchestration.errors import EngineError
from ...orchestration.report.over_seeds import arms_of, repeated
from ...orchestration.tracking.comparison import compare
from ...orchestration.tracking.saved_view import chart_url, table_url
from ..experiments import Experiment
from ..home import Home
from ..jobs import Jobs
from ..live_table import arms_table, comparison_table, follow
from ..states import note_end
from .console import print_addresses, print_data, stderr_console


def follow_to_end(home: Home, experiment: Experiment) -> int:
    """Follow, then print the comparison; returns the exit code. Ctrl-C detaches and leaves the experiment running."""
    console, name = stderr_console(), experiment.name
    jobs = Jobs(experiment.address)
    try:
        succeeded = follow(experiment, experiment.request.plan, jobs, console)
    except KeyboardInterrupt:
        console.print()  # after the terminal's ^C
        console.print(
            f"detached; {name} goes on. `effnet-cluster logs {name} -f` follows it, "
            f"`effnet-cluster stop {name}` stops it",
            soft_wrap=True,
        )
        return 0
    note_end(home, experiment, jobs.status(experiment.job))
    records = experiment.tracker.trials()
    if records:
        print_data(comparison_table(compare(records, experiment.request.spec.search.objectives)))
        if repeated(arms := arms_of({name: records})):
            print_data(arms_table(arms))
    if not succeeded:
        for line in jobs.error_lines(experiment.job):
            console.print(f"error: {line}", soft_wrap=True)
        console.print(f"`effnet-cluster logs {name}` tells more, `effnet-cluster resume {name}` goes on")
        return 1
    print_pages(experiment)
    return 0


def print_pages(experiment: Experiment) -> None:
    """Say where the web pages show the experiment's trials, or where MLflow is, if it does not answer just now."""
    tracker = experiment.tracker
    try:
        print_addresses(experiment.address, table_url(tracker), chart_url(tracker))
    except EngineError:
        print_addresses(experiment.address, tracker.uri)
