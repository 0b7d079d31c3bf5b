"""`effnet-cluster describe`: a variant's stage table with its cost."""

from __future__ import annotations

import click
from rich.table import Table

from ...effnet import complexity, network_config
from ...orchestration.errors import UserError
from ...orchestration.report.quantities import count
from ..quantities import show_bytes
from .console import print_data


@click.command("describe")
@click.argument("name", metavar="VARIANT")
@click.option("--activation", help="Activation function.  [default: the variant's own]")
@click.option("--shortcut", default="residual", show_default=True, help="Kind of skip connection.")
@click.option(
    "--classes", type=click.IntRange(min=1), default=1000, show_default=True, help="Outputs of the classifier."
)
@click.option("--image-size", type=click.IntRange(min=1), help="Input side in pixels.  [default: the variant's own]")
def command(name: str, activation: str | None, shortcut: str, classes: int, image_size: int | None) -> None:
    """Print the stages of VARIANT and their costs.

    The stages are those of the paper's table 1, the costs those of one image.

    VARIANT is b0 to b7, b2.5 for another φ, a scaled one such as b0-w1.4-d1.2-r1.3, or another network of the README's
    list. It may be one of torchvision's, such as resnet18 or densenet169; a stage is then all layers of one resolution.

    Activations are what training keeps for the backward pass, in float32.
    """
    own = {"activation": activation} if activation else {}
    try:
        config = network_config(name.lower(), shortcut=shortcut, num_classes=classes, **own)
        cost = complexity(config, image_size)
    except ValueError as error:
        raise UserError(str(error)) from None
    table = Table(title=config.title, title_justify="left", show_footer=True)
    table.add_column("stage", "")
    table.add_column("operator", "total")
    for header, footer in (
        ("resolution", ""),
        ("channels", ""),
        ("layers", str(sum(row.layers for row in cost.stages))),
        ("params", f"{cost.params:,}"),
        ("MACs", count(cost.macs)),
        ("activations", show_bytes(cost.activation_bytes)),
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
            show_bytes(row.activation_bytes),
        )
    print_data(table)
