"""`effnet-cluster status`: what runs, and where its web pages are."""

from __future__ import annotations

import click

from ..home import Home
from ..services import Services
from .console import print_json, print_line


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(as_json: bool) -> None:
    """Show the local services."""
    running = Services(Home.default()).running()
    if as_json:
        print_json({name: {"url": s.url, "pid": s.pid, "log": s.log} for name, s in running.items()})
        return
    for name, what in (("ray", "Ray dashboard"), ("mlflow", "MLflow UI")):
        service = running.get(name)
        print_line(
            f"{what:14} {f'{service.url}  (pid {service.pid}, log {service.log})' if service else 'not running'}"
        )
