"""`effnet-cluster data`: data sets as WebDataset shards with a manifest."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...datasets import Progress as Step
from ...datasets import prepare
from .console import talk


@click.group("data")
def command() -> None:
    """Prepare data sets."""


@command.command("prepare")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the data set.  [default: the source's]")
@click.option("--val-fraction", type=float, default=0.2, show_default=True, help="Where the source has no val folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and of the order in the shards.")
@click.option("--mirror/--no-mirror", default=True, show_default=True, help="Whether a mirrored image keeps its class.")
def prepare_command(source: Path, out: Path, name: str | None, val_fraction: float, seed: int, mirror: bool) -> None:
    """Write SOURCE, a folder of class folders or an archive of one (.tgz, .tar, .zip), to OUT as shards."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = talk()
    # Where there is no terminal even a transient bar would leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None)

        def show(step: Step) -> None:
            bar.update(task, completed=step.done, total=step.total)

        manifest = prepare(
            source, out, name=name, val_fraction=val_fraction, seed=seed, mirror_safe=mirror, progress=show
        )
    sizes = ", ".join(f"{len(split):,} {split_name}" for split_name, split in manifest.splits.items())
    click.echo(f"{manifest.name}: {sizes} images of {len(manifest.classes)} classes in {out}")
