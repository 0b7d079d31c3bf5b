"""`effnet-cluster bench train`: steps per second of our trials against a plain torchrun script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from ...datasets import DIGITS
from ...orchestration.errors import UserError
from ...orchestration.request import ExperimentRequest
from ..jobs import Jobs
from .bar import progress_bar
from .bench_engines import temporary_engines, wait_for_job
from .console import print_data, print_json, stderr_console

if TYPE_CHECKING:
    from ...benchmarks.train import TrainBenchResult


@click.command("train")
@click.option("--variant", default="b0", show_default=True, help="Network to train.")
@click.option("--workers", default="1,2", show_default=True, help="Numbers of DDP ranks to measure.")
@click.option(
    "--epochs",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    help="Passes over the data; the first is not counted.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Measured rounds.")
@click.option(
    "--cpus-per-worker", type=click.IntRange(min=1), help="Threads per rank.  [default: all cores shared out]"
)
@click.option("--image-size", type=click.IntRange(min=32), default=32, show_default=True, help="Input side in pixels.")
@click.option(
    "--global-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per step, over all ranks."
)
@click.option("--data", default=DIGITS, show_default=True, help="A folder of shards, or the embedded digits.")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="Where to compute.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(
    variant: str,
    workers: str,
    epochs: int,
    rounds: int,
    cpus_per_worker: int | None,
    image_size: int,
    global_batch: int,
    data: str,
    device: str,
    as_json: bool,
) -> None:
    """Measure whole trainings, with MLflow and checkpoints.

    Compares with a plain torchrun script that trains the same model on the same data.
    """
    from ...benchmarks.train import TrainBench, measure  # with torch, which `bench -h` need not wait for

    try:
        ranks = tuple(dict.fromkeys(int(part) for part in workers.split(",")))
    except ValueError:
        raise UserError(f"--workers {workers}: expected numbers such as 1,2") from None
    # A job has another working directory.
    place = data if data == DIGITS else str(Path(data).absolute())
    settings = TrainBench(variant, ranks, epochs, rounds, cpus_per_worker, image_size, global_batch, place, device)
    results: list[TrainBenchResult] = []
    console = stderr_console()
    try:
        with progress_bar(console, "training") as show:
            for result in measure(_engines, settings, show):
                console.print(f"measured {result.workers} workers")
                results.append(result)
    except ValueError as error:
        raise UserError(str(error)) from None
    if as_json:
        print_json([asdict(result) for result in results], indent=2)
        return
    title = f"{variant}, {image_size} px, batch {global_batch}; ours to torchrun: median of {rounds} ratios [quartiles]"
    print_data(_table(title, results))


def _table(title: str, results: Iterable[TrainBenchResult]) -> Table:
    table = Table(title=title, title_justify="left")
    for header in ("workers", "threads", "by", "steps/s", "waits for data", "loss", "steps/s to it", "epochs to it"):
        table.add_column(header, justify="left" if header == "by" else "right", no_wrap=True)
    for row in results:
        for name, speed in row.steps_per_second.items():
            own = f"{speed:.2f}", f"{row.wait_shares[name]:.1%}", f"{row.losses[name]:.3f}"
            ratios = ("", "") if name == next(iter(row.losses)) else (str(row.steps), str(row.epochs))
            table.add_row(str(row.workers), str(row.threads), name, *own, *ratios)
    return table


@dataclass(frozen=True)
class _Platform:
    """The engines of one home, see `benchmarks.train.Platform`."""

    tracking_uri: str
    jobs: Jobs

    def run(self, request: ExperimentRequest) -> None:
        """Submit and wait."""
        self.jobs.submit(request)
        wait_for_job(self.jobs, request.job)


@contextmanager
def _engines() -> Iterator[_Platform]:
    with temporary_engines() as (_, engines):
        yield _Platform(engines.tracking_uri, Jobs(engines.address))
