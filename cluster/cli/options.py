"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which engines to use. Without addresses the embedded ones are used, and started if they do not run."""
    for option in (
        click.option("--mlflow-port", type=click.IntRange(1, 65535), help="Embedded MLflow.  [default: 5000 or free]"),
        click.option(
            "--dashboard-port", type=click.IntRange(1, 65535), help="Embedded Ray dashboard.  [default: 8265 or free]"
        ),
        click.option("--tracking-uri", help="An existing MLflow server, such as http://mlflow:5000."),
        click.option("--address", help="An existing cluster's Ray dashboard, such as http://head-node:8265."),
    ):
        function = option(function)
    return function


experiment_argument = click.argument("experiment")
