"""`effnet-cluster data index`: a manifest for shards that exist already."""

from __future__ import annotations

from pathlib import Path

import click

from ...datasets import Account, index_existing, read_class_names
from .bar import progress_bar
from .console import stderr_console
from .data_report import print_account, print_duplicates, print_result


@click.command("index")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the data set.  [default: the folder's]")
@click.option(
    "--train", metavar="PATTERN", help="Shards of train below FOLDER.  [default: by their or a folder's name]"
)
@click.option("--val", metavar="PATTERN", help="Shards of val.  [default: by name; without any, a part of train]")
@click.option("--test", metavar="PATTERN", help="Shards of test.  [default: by name, if there are any]")
@click.option("--label", default="cls", show_default=True, help="Member with the label: an extension, or json:FIELD.")
@click.option(
    "--classes", type=click.Path(path_type=Path), help="File with one class name per line, in order of indices."
)
@click.option(
    "--val-fraction", type=float, default=0.2, show_default=True, help="Share of images for val, without shards of val."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of that split.")
@click.option("--mirror/--no-mirror", default=True, show_default=True, help="Whether a mirrored image keeps its class.")
def command(
    folder: Path,
    name: str | None,
    train: str | None,
    val: str | None,
    test: str | None,
    label: str,
    classes: Path | None,
    val_fraction: float,
    seed: int,
    mirror: bool,
) -> None:
    """Index the WebDataset shards in FOLDER.

    Writes a manifest, an index and an account of all members beside them, nothing else. Numbers in .cls are indices;
    labels in another member are names, unless they are numbers and --classes has other names.
    """
    patterns = {split: given for split, given in (("train", train), ("val", val), ("test", test)) if given}
    if patterns and not train:
        raise click.UsageError("--val and --test need --train")
    console = stderr_console()
    accounts: list[Account] = []
    with progress_bar(console, "indexing") as show:
        manifest = index_existing(
            folder,
            splits=patterns or None,
            label=label,
            classes=None if classes is None else read_class_names(classes),
            val_fraction=val_fraction,
            seed=seed,
            name=name,
            mirror_safe=mirror,
            progress=show,
            note=lambda line: console.print(line, soft_wrap=True),
            report=print_duplicates,
            accounted=accounts.append,
        )
    for account in accounts:
        print_account(account, folder)
    print_result(manifest, folder)
