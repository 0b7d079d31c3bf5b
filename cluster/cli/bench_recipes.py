"""`effnet-cluster bench recipes`: what recipes reach on data that ships with packages."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.table import Table

from ...orchestration.errors import UserError
from .console import print_data, talk


@click.command("recipes")
@click.option("--data", type=click.Choice(["digits", "photos"]), default="digits", show_default=True)
@click.option("--variant", default="b0", show_default=True)
@click.option("--recipes", default="small", show_default=True, help="Recipes to compare, such as transfer,basic.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Trainings each.")
@click.option("--epochs", type=click.IntRange(min=1), help="The same for all.  [default: by recipe]")
@click.option("--image-size", type=click.IntRange(min=8), help="In pixels.  [default: by variant and data]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recipes_command(
    data: str, variant: str, recipes: str, seeds: int, epochs: int | None, image_size: int | None, as_json: bool
) -> None:
    """Top-1 after the last epoch, on the digits or on crops of scikit-image's and scikit-learn's photographs."""
    from ...benchmarks import recipes as bench  # with torch, which `bench -h` need not wait for

    fields = {} if image_size is None else {"image_size": image_size}
    budget = {} if epochs is None else {"epochs": epochs}
    runs = []
    try:
        for name in (part.strip() for part in recipes.split(",")):
            for run in bench.measure(data, variant, {"name": name, **budget}, range(seeds), **fields):
                talk().print(f"{name}, seed {run.seed}: {run.last:.4f} in {run.seconds:.0f} s", highlight=False)
                runs.append(run)
    except ImportError as error:
        raise UserError(
            f"bench recipes needs more packages ({error.name}): pip install 'effnet-cluster[dev]'"
        ) from None
    if as_json:
        click.echo(json.dumps([asdict(run) for run in runs], indent=2))
        return
    table = Table(title=f"{variant} on {data}: val top-1 after the last epoch", title_justify="left")
    for header in ("recipe", "epochs", "median [lowest, highest]", "n"):
        table.add_column(header, justify="left" if header == "recipe" else "right", no_wrap=True)
    for name in dict.fromkeys(run.recipe for run in runs):
        mine = [run for run in runs if run.recipe == name]
        found = bench.summary(mine)
        table.add_row(name, str(len(mine[0].top1)), str(found), str(found.runs))
    print_data(table)
