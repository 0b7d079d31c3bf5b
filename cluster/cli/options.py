"""Options that several verbs share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click
import cloup

from .help_pages import PagedOption

_PORT = click.IntRange(1, 65535)
_POSITIVE = click.FloatRange(min=0, min_open=True)


seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=math.inf,
    show_default=False,
    help="After so long in a task, begin no further round.",
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which engines to use. Without addresses the embedded ones are used, and started if they do not run."""
    decorate = cloup.option_group(
        "Engines",
        cloup.option(
            "--address",
            cls=PagedOption,
            common=True,
            metavar="URL",
            help="Ray dashboard of a cluster.  [default: a local one]",
        ),
        cloup.option(
            "--tracking-uri",
            cls=PagedOption,
            common=True,
            metavar="URL",
            help="MLflow server.  [default: a local one]",
        ),
        cloup.option(
            "--storage",
            cls=PagedOption,
            metavar="URL",
            help="Folder or URL for checkpoints, which all nodes see.  [default: in the home]",
        ),
        cloup.option(
            "--dashboard-port",
            cls=PagedOption,
            type=_PORT,
            metavar="PORT",
            help="Port of the local Ray dashboard.  [default: 8265 or free]",
        ),
        cloup.option(
            "--mlflow-port",
            cls=PagedOption,
            type=_PORT,
            metavar="PORT",
            help="Port of the local MLflow.  [default: 5000 or free]",
        ),
    )
    return decorate(command)


def cost_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a plan's cost is predicted from, and how much of it is allowed."""
    decorate = cloup.option_group(
        "Cost",
        cloup.option(
            "--budget-hours",
            cls=PagedOption,
            type=_POSITIVE,
            metavar="H",
            help="Worker-hours to keep to: fewer seeds, then fewer epochs.",
        ),
        cloup.option(
            "--price-per-hour",
            cls=PagedOption,
            type=_POSITIVE,
            metavar="PRICE",
            help="Price of one DDP worker per hour, for the plan's cost.",
        ),
        cloup.option(
            "--probe/--no-probe",
            cls=PagedOption,
            default=None,
            help="Measure hardware that is not yet known.  [default: not with --dry-run]",
        ),
    )
    return decorate(command)


experiment_argument = click.argument("experiment")
