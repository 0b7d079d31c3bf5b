"""`effnet-cluster data inspect`: what a data set holds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.filesize import decimal
from rich.table import Table

from ...datasets import Inspection, contact_sheet, inspect_dataset
from ..home import Home
from .console import print_data, print_json, print_line

_SHOWN_CLASSES = 20


@click.command("inspect")
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, for scripts.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), metavar="FILE.png", help="Write a contact sheet: one row per class."
)
@click.option("--split", default="train", show_default=True, help="Split that the contact sheet shows.")
def command(dataset: str, as_json: bool, sheet: Path | None, split: str) -> None:
    """Show classes, counts, sizes and balance of DATASET, a folder or an address."""
    manifest = Home.default().open_dataset(dataset)
    found = inspect_dataset(manifest)
    if sheet is not None:
        picture = contact_sheet(manifest, split)
        try:
            picture.save(sheet)
        except (OSError, ValueError) as error:
            raise click.UsageError(f"--sheet {sheet}: cannot be written: {error}") from error
    if as_json:
        print_json(found.as_dict(), indent=1, ascii_only=False)
        return
    print_line(f"{found.name} in {found.location}, digest {found.digest}")
    mirror = "a mirrored image keeps its class" if found.mirror_safe else "a mirrored image loses its class"
    print_line(f"{len(found.classes):,} classes, median shorter side {found.image_size} px, {mirror}")
    print_data(_splits(found))
    print_data(_classes(found))


def _splits(found: Inspection) -> Table:
    table = Table("split", box=None)
    for title in ("images", "shards", "bytes", "shorter side, px", "longer side, px", "largest/smallest class"):
        table.add_column(title, justify="right")
    table.add_column("evenness", justify="right")
    for name, split in found.splits.items():
        # smallest, median and largest; the quantiles in between are in the JSON
        sides = [f"{side[0]}–{side[2]}–{side[-1]}" for side in (split.short_side, split.long_side)]
        numbers = (f"{split.images:,}", f"{split.shards:,}", decimal(split.bytes))
        table.add_row(name, *numbers, *sides, f"{split.imbalance:.2f}", f"{split.evenness:.3f}")
    return table


def _classes(found: Inspection) -> Table:
    table = Table("class", box=None)
    for name in found.splits:
        table.add_column(name, justify="right")
    counts = [split.counts for split in found.splits.values()]
    order = sorted(range(len(found.classes)), key=lambda label: (-counts[0][label], label))
    half = _SHOWN_CLASSES // 2
    if len(order) <= _SHOWN_CLASSES:
        head, tail = list(range(len(order))), []
    else:
        head, tail = order[:half], order[-half:]
    for label in head:
        table.add_row(found.classes[label], *(f"{count[label]:,}" for count in counts))
    if tail:
        table.add_row(f"… {len(order) - _SHOWN_CLASSES:,} more (--json) …", *("…" for _ in counts))
    for label in tail:
        table.add_row(found.classes[label], *(f"{count[label]:,}" for count in counts))
    return table
