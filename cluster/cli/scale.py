"""`effnet-cluster scale`: the largest models within a budget, equation 2 of the paper."""

from __future__ import annotations

import math
from typing import Any

import click
from rich.table import Table

from ...effnet import VARIANTS, variant
from ...effnet.budget import Budget, base_grid, largest_of, largest_on_grid, largest_phi
from ...effnet.memory import TrainingEstimate, estimate
from ...effnet.naming import scaled_name
from ...orchestration.errors import UserError
from ...orchestration.report.quantities import count
from ..quantities import parse_bytes, parse_count, show_bytes
from .console import print_data, print_json, print_line, stderr_console

_PUBLISHED = tuple(f"b{number}" for number in range(8))
# Rows of the grid that a table shows; --json shows all.
_ROWS = 12


@click.group("scale", invoke_without_command=True)
@click.option("--max-macs", help="Multiply-adds of one image, such as 2G.")
@click.option("--max-memory", help="Training memory of a device, such as 8GiB.")
@click.option("--max-params", help="Parameters, such as 10M.")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per device and step.")
@click.option("--classes", type=click.IntRange(min=1), default=1000, show_default=True, help="Outputs of the network.")
@click.option("--activation", default="silu", show_default=True, help="Activation function.")
@click.option("--shortcut", default="residual", show_default=True, help="Kind of skip connection.")
@click.option("--grid", is_flag=True, help="Show every maximal combination of width, depth and resolution too.")
@click.option(
    "--checkpoint-activations", is_flag=True, help="Recompute activations: less memory for about a third more compute."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.pass_context
def command(
    context: click.Context,
    max_macs: str | None,
    max_memory: str | None,
    max_params: str | None,
    batch: int,
    classes: int,
    activation: str,
    shortcut: str,
    grid: bool,
    checkpoint_activations: bool,
    as_json: bool,
) -> None:
    """Find the largest models within a budget.

    Also prints what they cost to train.

    Training memory is weights, gradients, AdamW's moments, saved activations and the peak on top of them, in float32
    on one device. A row is a name for `submit --variants` and `describe`.
    """
    if context.invoked_subcommand is not None:
        return
    bounds = {
        "macs": parse_count(max_macs, "--max-macs") if max_macs else None,
        "memory": parse_bytes(max_memory, "--max-memory") if max_memory else None,
        "params": parse_count(max_params, "--max-params") if max_params else None,
    }
    if not any(bounds.values()):
        raise UserError("no budget given; say at least one of --max-macs, --max-memory and --max-params")
    budget = Budget(**{name: bound or math.inf for name, bound in bounds.items()})
    overrides: dict[str, Any] = {"num_classes": classes, "activation": activation, "shortcut": shortcut}
    training = {"checkpoint_activations": checkpoint_activations}
    try:
        found = _solve(budget, batch, grid, overrides | training)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not found:
        raise UserError(_nothing_fits(budget, estimate(variant("b0", **overrides), batch, **training)))
    if as_json:
        print_json([_fields(label, prediction) for label, prediction in found], indent=2, ascii_only=False)
        return
    print_data(_table(found, budget, batch))
    left = sum(label == "grid" for label, _ in found) - _ROWS
    if left > 0:
        stderr_console().print(f"{left} more of the grid with fewer MACs; --json prints all")


@command.command("grid")
@click.option(
    "--step", type=click.FloatRange(min=0.01, max=0.5), default=0.05, show_default=True, help="Step of α, β, γ."
)
@click.option(
    "--flops", type=click.FloatRange(min=1, max=16), default=2.0, show_default=True, help="Target of α·β²·γ²."
)
@click.option(
    "--tolerance", type=click.FloatRange(min=0, max=1), default=0.1, show_default=True, help="Allowed distance."
)
def grid_command(step: float, flops: float, tolerance: float) -> None:
    """Print the α, β, γ of the paper's grid search, α·β²·γ² ≈ 2, as a list for `submit --variants`.

    The paper trains them all and takes the most accurate: (1.2, 1.1, 1.15), which is b0-w1.1-d1.2-r1.15.
    """
    names = [scaled_name("b0", beta, alpha, gamma) for alpha, beta, gamma in base_grid(step, flops, tolerance)]
    if not names:
        raise UserError(f"no α, β, γ in steps of {step} come within {tolerance} of {flops}; raise --tolerance")
    print_line(",".join(names))


def _solve(budget: Budget, batch: int, grid: bool, overrides: dict[str, Any]) -> list[tuple[str, TrainingEstimate]]:
    """What fits, each with why it is shown."""
    answers = [
        ("largest φ", largest_phi(budget, batch, **overrides)),
        ("published", largest_of([name for name in _PUBLISHED if name in VARIANTS], budget, batch, **overrides)),
    ]
    found = [(label, prediction) for label, prediction in answers if prediction is not None]
    if grid:
        found += [("grid", prediction) for prediction in largest_on_grid(budget, batch=batch, **overrides)]
    return found


def _nothing_fits(budget: Budget, smallest: TrainingEstimate) -> str:
    needs = [
        f"{shown(needed)} {what} (allowed: {shown(allowed)})"
        for needed, allowed, what, shown in (
            (smallest.cost.macs, budget.macs, "MACs", _count),
            (smallest.memory.total, budget.memory, f"training memory at batch {smallest.batch}", show_bytes),
            (smallest.cost.params, budget.params, "parameters", _count),
        )
        if needed > allowed
    ]
    return f"nothing fits: even b0 needs {' and '.join(needs)}; widths below 1, such as b0-w0.5, are smaller"


def _count(number: float) -> str:
    return count(int(number))


def _fields(label: str, prediction: TrainingEstimate) -> dict[str, Any]:
    config, cost, memory = prediction.config, prediction.cost, prediction.memory
    return {
        "why": label,
        "name": config.name,
        **config.scales,
        "resolution": config.resolution,
        "params": cost.params,
        "macs": cost.macs,
        "activation_bytes_per_image": cost.activation_bytes,
        "batch": prediction.batch,
        "training_memory": {
            "total": memory.total,
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "activations": memory.activations,
            "transient": memory.transient,
        },
    }


def _table(found: list[tuple[str, TrainingEstimate]], budget: Budget, batch: int) -> Table:
    bounds = [
        f"{shown(bound)} {what}"
        for bound, what, shown in (
            (budget.macs, "MACs", _count),
            (budget.memory, f"training memory at batch {batch}", show_bytes),
            (budget.params, "parameters", _count),
        )
        if bound < math.inf
    ]
    table = Table(title=f"the largest within {', '.join(bounds)}", title_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("why")
    for name in ("width", "depth", "image", "params", "MACs", "activations/image", f"memory at batch {batch}"):
        table.add_column(name, justify="right")
    shown_of_grid = 0
    for label, prediction in found:
        shown_of_grid += label == "grid"
        if shown_of_grid > _ROWS:
            break
        config, cost = prediction.config, prediction.cost
        table.add_row(
            config.name,
            label,
            *(f"{factor:.3g}" for factor in config.scales.values()),
            f"{config.resolution} px",
            count(cost.params),
            count(cost.macs),
            show_bytes(cost.activation_bytes),
            show_bytes(prediction.memory.total),
        )
    return table
