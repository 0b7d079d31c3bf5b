"""`effnet-cluster up`: start the embedded Ray head and MLflow server."""

from __future__ import annotations

import click

from ..engines import ensure_engines
from ..home import Home
from .console import print_addresses


@click.command("up")
@click.option(
    "--dashboard-port", type=click.IntRange(1, 65535), help="Port of the Ray dashboard.  [default: 8265, or a free one]"
)
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help="Port of MLflow.  [default: 5000, or a free one]")
def command(dashboard_port: int | None, mlflow_port: int | None) -> None:
    """Start the local services: Ray and MLflow. Those that run already stay."""
    engines = ensure_engines(Home.default(), None, None, dashboard_port, mlflow_port)
    print_addresses(engines.address, engines.tracking_uri)
