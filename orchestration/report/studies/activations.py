"""Activations: each at the learning rate that the other seeds chose for it, and how gradients reach the first part."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..parts import SCALE, Figure, Numbers, Part, label
from ..quantities import count
from ..significance import Difference, differences
from .arms import Group, StudyArm
from .drawing import PRINTED, TOP1_AXIS, over_epochs, over_parts, series
from .readings import gradient_ratios, gradients_at_start
from .words import Row, arms_table, budgets, power


def parts(group: Group) -> list[Part]:
    """The figure and table of the activations, all means as a heat map, gradients, and the budgets."""
    if not group.done:
        return []
    reference = group.arms[0]
    compared = differences([(arm.top1s, reference.top1s) for arm in group.arms[1:]])
    at_start = over_parts(
        f"{group.key}-gradients",
        f"Norm of the gradient at the first step, by part of the network{group.suffix}",
        "Mean over seeds of the trials that count; bars are 95 % bootstrap intervals.",
        {arm.activation: gradients_at_start(arm) for arm in group.done},
    )
    over_time = over_epochs(
        f"{group.key}-gradient-ratio",
        f"How much of the gradient reaches the first part{group.suffix}",
        "Mean over seeds of the first part's norm over the last part's, at the first step of each epoch. Their "
        "intervals are in the CSV.",
        {arm.activation: gradient_ratios(arm) for arm in group.done},
    )
    return [
        _figure(group),
        *_table(group, reference, compared),
        *_heat_map(group),
        *(figure for figure in (at_start, over_time) if figure),
        *budgets(group, {number: arm.activation for number, arm in enumerate(group.arms)}),
    ]


def settings_text(arm: StudyArm) -> str:
    """The settings at which its seeds count, the most frequent first, such as `lr 0.01 (5), lr 0.03 (1)`."""
    counts = Counter(arm.settings.values()).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{setting} ({seeds})" for setting, seeds in counts)


def _figure(group: Group) -> Figure:
    """A mark per activation: there is no order to join them by."""
    arms = group.done
    spreads = [arm.spread for arm in arms if arm.spread]
    trace = series("", 0, [label(arm.activation) for arm in arms], spreads, [settings_text(arm) for arm in arms], False)
    return Figure(
        key=f"{group.key}-means",
        title=f"Top-1 of each activation at its own settings{group.suffix}",
        caption="Mean over seeds of the best validation top-1; bars are 95 % bootstrap intervals.",
        data=[trace],
        layout={"xaxis": {"type": "category"}, "yaxis": TOP1_AXIS, "showlegend": False},
        numbers=Numbers(
            ("activation", "settings", "n", "mean", "sd", "low", "high"),
            [(arm.activation, settings_text(arm), *one.exact) for arm, one in zip(arms, spreads, strict=True)],
        ),
        height=400,
        printed=PRINTED,
    )


def _table(group: Group, reference: StudyArm, compared: Sequence[Difference]) -> list[Part]:
    swept = any(len(arm.grid) > 1 for arm in group.arms)
    rows = []
    for arm, difference in zip(group.arms, [None, *compared], strict=True):
        chosen = (settings_text(arm) if arm.settings else "",) if swept else ()
        texts = (arm.activation, *chosen, count(arm.params))
        rows.append(Row(texts, (arm.activation, *chosen, arm.params), arm.spread, difference))
    table = arms_table(
        f"{group.key}-table",
        f"Activations{group.suffix}",
        ("activation", *(["chosen settings"] if swept else []), "params"),
        rows,
        f"to {reference.activation}",
        f"Differences are to {reference.activation}, the first that was asked for."
        + (" In brackets: how many seeds count at these settings." if swept else ""),
    )
    return [table, *power(compared, f"differences to {reference.activation}")]


def _heat_map(group: Group) -> list[Part]:
    """The mean of all completed trials of every activation and setting; nothing where nothing was swept."""
    settings = list(dict.fromkeys(setting for arm in group.done for setting in arm.grid))
    if len(settings) < 2:
        return []
    grid = [[arm.grid.get(setting) for setting in settings] for arm in group.done]
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": [label(setting) for setting in settings],
        "y": [label(arm.activation) for arm in group.done],
        "z": [[statistics.fmean(seeds.values()) if seeds else None for seeds in row] for row in grid],
        "text": [
            [f"{statistics.fmean(seeds.values()):.4f}<br>n {len(seeds)}" if seeds else "" for seeds in row]
            for row in grid
        ],
        "texttemplate": "%{text}",
        "hovertemplate": "%{y}, %{x}<br>%{text}<extra></extra>",
        "colorscale": SCALE,
        "colorbar": {"title": {"text": "top-1"}, "tickformat": ".3~f", "thickness": 14},
        "xgap": 2,
        "ygap": 2,
    }
    return [
        Figure(
            key=f"{group.key}-grid",
            title=f"Every activation at every setting{group.suffix}",
            caption="Mean over seeds of the best validation top-1 of completed trials, and how many they are. The best "
            "of a row flatters it; the table does not take it.",
            data=[heat],
            layout={
                "xaxis": {"type": "category", "showgrid": False},
                "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
            },
            numbers=Numbers(
                ("activation", "settings", "n", "mean", "sd"),
                [
                    (arm.activation, setting, len(seeds), statistics.fmean(values), _sd(values))
                    for arm in group.done
                    for setting, seeds in arm.grid.items()
                    if (values := list(seeds.values()))
                ],
            ),
            height=150 + 46 * len(group.done),
        )
    ]


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
