"""`effnet-cluster bench recipes`: the accuracy that recipes reach on data that packages bring."""

from __future__ import annotations

import click
from rich.table import Table

from ...orchestration.errors import UserError
from ...orchestration.training.recipes import RECIPES
from .bar import progress_bar
from .console import print_data, print_json, stderr_console


@click.command("recipes")
@click.option(
    "--recipes",
    default="small",
    show_default=True,
    help=f"Recipes, such as transfer,basic; there are {', '.join(RECIPES)}.",
)
@click.option("--variant", default="b0", show_default=True, help="Network to train.")
@click.option(
    "--data", type=click.Choice(["digits", "photos"]), default="digits", show_default=True, help="Images to train on."
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Trainings per recipe.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the images.  [default: the recipe's]")
@click.option("--global-batch", type=click.IntRange(min=1), help="Images per step.  [default: the recipe's]")
@click.option("--image-size", type=click.IntRange(min=32), help="Input side in pixels.  [default: by variant and data]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(
    recipes: str,
    variant: str,
    data: str,
    seeds: int,
    epochs: int | None,
    global_batch: int | None,
    image_size: int | None,
    as_json: bool,
) -> None:
    """Measure the accuracy of recipes.

    Trains each recipe with several seeds, in this process; `--data photos` needs scikit-image.
    """
    from ...benchmarks.recipes import measure, summary  # with torch, which `bench -h` need not wait for

    given = {"epochs": epochs, "global_batch": global_batch}
    changed = {name: value for name, value in given.items() if value is not None}
    runs, names, console = [], [name.strip() for name in recipes.split(",")], stderr_console()
    try:
        with progress_bar(console, "trainings") as show:
            show(0, len(names) * seeds)
            for name in names:
                for run in measure(data, variant, changed | {"name": name}, range(seeds), image_size=image_size):
                    console.print(f"{run.recipe}, seed {run.seed}: {run.last:.4f}")
                    runs.append(run)
                    show(len(runs), len(names) * seeds)
    except ImportError as error:
        raise UserError(f"bench recipes needs a package that is not installed: {error}") from None
    if as_json:
        print_json([vars(run) for run in runs], indent=2)
        return
    table = Table(title=f"{variant} on {data}: val top-1 after the last epoch, median [least, greatest]")
    for header in ("recipe", "epochs", "n", "top-1"):
        table.add_column(header, justify="left" if header == "recipe" else "right", no_wrap=True)
    for name in dict.fromkeys(run.recipe for run in runs):
        own = [run for run in runs if run.recipe == name]
        found = summary(own)
        table.add_row(name, str(len(own[0].top1)), str(found.runs), str(found))
    print_data(table)
