"""`effnet-cluster down`: stop the embedded services."""

from __future__ import annotations

import click

from ...orchestration.errors import UserError
from ..experiments import Experiments
from ..home import Home
from ..jobs import Jobs
from ..lifecycle import stop
from ..services import Services
from .console import print_warnings, stderr_console


@click.command("down")
@click.option("--force", is_flag=True, help="Also stop experiments that are running.")
def command(force: bool) -> None:
    """Stop the local services. Experiments, runs and models stay on disk."""
    home = Home.default()
    services, console = Services(home), stderr_console()
    print_warnings(Experiments(home).problems())
    active = _active_experiments(home, services)
    if active and not force:
        raise UserError(f"running: {', '.join(active)}; stop them first, or use --force")
    for name in active:
        stop(home, name)
        console.print(f"stopped experiment {name}")
    for name in ("ray", "mlflow"):
        console.print(f"{name} {'stopped' if services.stop(name) else 'was not running'}")


def _active_experiments(home: Home, services: Services) -> list[str]:
    """Experiments whose jobs the embedded Ray head is running."""
    ray = services.running().get("ray")
    if ray is None:
        return []
    jobs = Jobs(ray.url)
    return [name for name, job in Experiments(home).local_jobs().items() if jobs.is_active(job)]
