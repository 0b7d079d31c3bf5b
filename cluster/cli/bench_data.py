"""`effnet-cluster bench data`: our loaders against other readers."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table

from ...orchestration.errors import UserError
from .bar import progress_bar
from .console import print_data, print_json, stderr_console
from .options import seconds_option


@click.command("data")
@click.option(
    "--images", type=click.IntRange(min=64), default=2048, show_default=True, help="JPEGs to read, a multiple of 64."
)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Measured rounds, at most.")
@seconds_option
@click.option(
    "--photos",
    type=click.Choice(["generated", "scikit-learn"]),
    default="generated",
    show_default=True,
    help="Where their pictures come from.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(images: int, rounds: int, seconds: float, photos: str, as_json: bool) -> None:
    """Measure decoding and augmenting on one core.

    Compares with ImageFolder, webdataset and bare libjpeg-turbo.
    """
    from ...benchmarks import data  # with torch, which `bench -h` need not wait for

    try:
        with progress_bar(stderr_console(), "writing photographs") as show:
            rows = data.measure(images, rounds, photos, budget_s=seconds, progress=show)
    except ValueError as error:
        raise UserError(str(error)) from None
    if as_json:
        print_json([asdict(row) for row in rows], indent=2)
        return
    title = f"{images} {photos} JPEGs, one core; ours to theirs: median of the rounds' ratios [quartiles]"
    table = Table(title=title, title_justify="left")
    for header in ("task", "reader"):
        table.add_column(header)
    for header in ("images/s", "ours to it", "normalised", "rounds"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        rate, ours = f"{row.images_per_second:,.0f}", row.ours
        table.add_row(row.task, row.name, rate, str(ours), str(row.ours_normalised), str(ours.rounds))
    print_data(table)
