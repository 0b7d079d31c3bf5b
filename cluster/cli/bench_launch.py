"""`effnet-cluster bench launch`: how long a trial takes to begin and to end, and where that time goes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.table import Table

from ...orchestration.errors import EngineError
from ...orchestration.plan import make_plan
from ...orchestration.spec import ExperimentSpec
from ...orchestration.tracking.runs import Tracker
from ..experiments import Experiments
from .bar import progress_bar
from .bench_engines import temporary_engines
from .console import print_data, print_json, stderr_console

if TYPE_CHECKING:
    from ...benchmarks.launch import LaunchResult


@click.command("launch")
@click.option("--variant", default="b0-w0.5-d0.5", show_default=True, help="Network to train.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="DDP ranks, one core each.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Measured rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(variant: str, workers: int, rounds: int, as_json: bool) -> None:
    """Measure how long trials take to begin and to end.

    Two trials of one epoch run one after the other; a plain torchrun script starts in turns with them.
    """
    from ...benchmarks.launch import measure  # with torch, which `bench -h` need not wait for

    with temporary_engines() as (home, _):
        fields = {"name": "launch", "variants": variant, "seeds": [0, 1], "recipe": {"epochs": 1}}
        spec = ExperimentSpec.parse(fields | {"execution": {"workers": workers, "cpus_per_worker": 1}})
        plan = make_plan(spec, home.open_dataset(spec.data))

        def submit(number: int) -> Tracker:
            name = f"launch-{number}"
            command = [
                *(sys.executable, "-c", "from effnet_cluster.cluster.cli import main; main()"),
                *("submit", "--name", name, "--no-probe"),
                *("--variants", variant, "--seeds", "0,1", "--epochs", "1"),
                *("--workers", str(workers), "--cpus-per-worker", "1", "--max-concurrent", "1"),
            ]
            environment = os.environ | {"EFFNET_CLUSTER_HOME": str(home.root)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EngineError(f"submit failed: {done.stderr.strip()[-300:]}")
            return Experiments(home).load(name).tracker

        with progress_bar(stderr_console(), "launching") as show:
            result = measure(submit, plan, workers, home.cache, home.root, rounds, show)
    if as_json:
        print_json(asdict(result), indent=2)
        return
    print_data(_table(f"{variant} on {workers} workers: seconds, medians of {rounds} rounds", result))


def _table(title: str, result: LaunchResult) -> Table:
    table = Table(title=title, title_justify="left")
    for header in ("from … to", "what happens", "seconds"):
        table.add_column(header, justify="right" if header == "seconds" else "left")
    for whole, parts in result.parts.items():
        for name, seconds in parts.items():
            table.add_row(whole if name == next(iter(parts)) else "", name, f"{seconds:.1f}")
        table.add_row("", "together", f"{sum(parts.values()):.1f}", end_section=True)
    table.add_row("torchrun's start to its first step", "", f"{result.torchrun:.1f}")
    table.add_row("a submitted trial to it", "times as long", str(result.start))
    return table
