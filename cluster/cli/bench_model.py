"""`effnet-cluster bench model`: our networks' steps and inference against other libraries'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import click
from rich.table import Table

from ...benchmarks.model import OURS, ModelBench, ModelBenchResult, measure
from ...orchestration.errors import UserError
from .bar import progress_bar
from .console import print_data, print_json, stderr_console
from .options import seconds_option


@click.command("model")
@click.option("--variants", default="b0,b4", show_default=True, help="Networks from b0 to b7.")
@click.option("--image-size", type=click.IntRange(min=32), default=224, show_default=True, help="Input side in pixels.")
@click.option("--batch", type=click.IntRange(min=1), help="Images per step.  [default: by variant]")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Measured rounds, at most.")
@seconds_option
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.  [default: torch's]")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to compute."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Number format; bfloat16 is autocast.",
)
@click.option("--channels-last/--contiguous", default=True, show_default=True, help="Memory format of images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(
    variants: str,
    image_size: int,
    batch: int | None,
    rounds: int,
    seconds: float,
    threads: int | None,
    device: str,
    dtype: str,
    channels_last: bool,
    as_json: bool,
) -> None:
    """Measure training steps and inference.

    Compares with the same networks of timm (extra `bench`) and torchvision.
    """
    settings = ModelBench(image_size, batch, rounds, threads, device, dtype, channels_last, seconds)
    results, console = [], stderr_console()
    try:
        with progress_bar(console, "building networks") as show:
            for result in measure(tuple(name.strip() for name in variants.split(",")), settings, show):
                console.print(f"measured {result.variant} {result.task}")
                results.append(result)
    except ValueError as error:
        raise UserError(str(error)) from None
    if as_json:
        print_json([asdict(result) for result in results], indent=2)
        return
    print_data(_table(results))


def _table(results: Iterable[ModelBenchResult]) -> Table:
    results = list(results)
    others = [name for name in results[0].rates if name != OURS]
    table = Table(title="images/s, and ours to theirs: median of the rounds' ratios [quartiles]", title_justify="left")
    table.add_column("model")
    for header in ("task", "batch", OURS, *others, *(f"to {other}" for other in others)):
        table.add_column(header, justify="right", no_wrap=True)
    for row in results:
        rates = (f"{row.rates[name]:.1f}" for name in (OURS, *others))
        table.add_row(row.variant, row.task, str(row.batch), *rates, *(str(row.ratios[other]) for other in others))
    return table
