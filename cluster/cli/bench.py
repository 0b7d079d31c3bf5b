"""`effnet-cluster bench`: paired measurements against plain alternatives, on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import click
from rich.table import Table

from ...benchmarks.model import OURS, Result, Settings, measure
from ...orchestration.errors import UserError
from .console import print_data, talk


@click.group("bench")
def command() -> None:
    """Measure against plain alternatives, paired: contestants take turns, so that load hits all alike."""


@command.command("model")
@click.option("--variants", default="b0,b4", show_default=True, help="Of b0 to b7.")
@click.option("--image-size", type=click.IntRange(min=32), default=224, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), help="Images a step.  [default: by variant]")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of torch.  [default: torch's]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--channels-last/--contiguous", default=True, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def model_command(
    variants: str,
    image_size: int,
    batch: int | None,
    rounds: int,
    threads: int | None,
    device: str,
    dtype: str,
    channels_last: bool,
    as_json: bool,
) -> None:
    """Training step and inference of our networks against timm's and torchvision's (extra `bench`)."""
    settings = Settings(image_size, batch, rounds, threads, device, dtype, channels_last)
    results = []
    try:
        for result in measure(tuple(name.strip() for name in variants.split(",")), settings):
            talk().print(f"measured {result.variant} {result.task}", highlight=False)
            results.append(result)
    except ValueError as error:
        raise UserError(str(error)) from None
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
        return
    print_data(_model_table(results))


@command.command("data")
@click.option("--images", type=click.IntRange(min=64), default=2048, show_default=True, help="A multiple of 64.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--photos", type=click.Choice(["generated", "scikit-learn"]), default="generated", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def data_command(images: int, rounds: int, photos: str, as_json: bool) -> None:
    """Decoding and augmenting on one core against ImageFolder, webdataset and bare libjpeg-turbo (extra `bench`)."""
    from ...benchmarks import data  # with torch, which `bench -h` need not wait for

    try:
        rows = data.measure(images, rounds, photos)
    except ValueError as error:
        raise UserError(str(error)) from None
    except ImportError as error:
        raise UserError(f"bench data needs more packages ({error.name}): pip install 'effnet-cluster[bench]'") from None
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    title = f"{images} {photos} JPEGs, one core; ours to theirs: median of {rounds} rounds' ratios [quartiles]"
    table = Table(title=title, title_justify="left")
    for header in ("task", "reader"):
        table.add_column(header)
    for header in ("images/s", "ours to it"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.task, row.name, f"{row.images_per_second:,.0f}", str(row.ours))
    print_data(table)


def _model_table(results: Iterable[Result]) -> Table:
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
