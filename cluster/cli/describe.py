"""`effnet-cluster describe`: a variant's stage table with its cost."""

from __future__ import annotations

import click
from rich.table import Table

from ...effnet import complexity, variant
from ...orchestration.errors import UserError
from ..follow import count
from .console import print_data


@click.command("describe")
@click.argument("name", metavar="VARIANT")
@click.option("--activation", help="[default: the variant's own]")
@click.option("--shortcut", default="residual", show_default=True)
@click.option("--classes", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--image-size", type=click.IntRange(min=1), help="Input side in pixels.  [default: the variant's own]")
def command(name: str, activation: str | None, shortcut: str, classes: int, image_size: int | None) -> None:
    """Print the stages of VARIANT as the paper's table 1 has them, with parameters and multiply-adds."""
    try:
        config = variant(
            name, shortcut=shortcut, num_classes=classes, **({"activation": activation} if activation else {})
        )
        cost = complexity(config, image_size)
    except ValueError as error:
        raise UserError(str(error)) from None
    table = Table(
        title=f"{name}: width {config.width}, depth {config.depth}, {config.activation}, {shortcut} shortcuts",
        title_justify="left",
        show_footer=True,
    )
    table.add_column("stage", "")
    table.add_column("operator", "total")
    for header, footer in (
        ("resolution", ""),
        ("channels", ""),
        ("layers", str(sum(row.layers for row in cost.stages))),
        ("params", f"{cost.params:,}"),
        ("MACs", count(cost.macs)),
    ):
        table.add_column(header, footer, justify="right")
    for row in cost.stages:
        table.add_row(
            str(row.stage),
            row.operator,
            "×".join(map(str, row.resolution)),
            str(row.channels),
            str(row.layers),
            f"{row.params:,}",
            count(row.macs),
        )
    print_data(table)
