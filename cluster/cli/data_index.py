"""`effnet-cluster data index`: a manifest for shards that exist already."""

from __future__ import annotations

from pathlib import Path

import click

from ...datasets import index_existing
from .bar import progress_bar
from .console import print_line, stderr_console


@click.command("index")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the data set.  [default: the folder's]")
@click.option("--train", metavar="PATTERN", help="Shards of train below FOLDER.  [default: train/*.tar, or *.tar]")
@click.option("--val", metavar="PATTERN", help="Shards of val.  [default: val/*.tar; without any, a part of train]")
@click.option("--test", metavar="PATTERN", help="Shards of test.  [default: test/*.tar, if there are any]")
@click.option("--label", default="cls", show_default=True, help="Member with the label: an extension, or json:FIELD.")
@click.option(
    "--classes", type=click.Path(path_type=Path), help="File with one class name per line, in order of labels."
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

    Writes a manifest and an index beside them, nothing else.
    """
    patterns = {split: given for split, given in (("train", train), ("val", val), ("test", test)) if given}
    if patterns and not train:
        raise click.UsageError("--val and --test need --train")
    with progress_bar(stderr_console(), "indexing") as show:
        manifest = index_existing(
            folder,
            splits=patterns or None,
            label=label,
            classes=None if classes is None else _lines(classes),
            val_fraction=val_fraction,
            seed=seed,
            name=name,
            mirror_safe=mirror,
            progress=show,
        )
    sizes = ", ".join(f"{len(split):,} {split_name}" for split_name, split in manifest.splits.items())
    print_line(f"{manifest.name}: {sizes} images of {len(manifest.classes)} classes in {folder}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--classes {path}: cannot be read: {error}") from error
