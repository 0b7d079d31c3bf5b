"""Family: the paper's table 2, with its two ratio columns and the published accuracies beside the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..accuracy import PublishedPoint
from ..parts import COLORS, Figure, Numbers, Part, label, log_axis
from ..quantities import count, duration
from ..significance import differences
from .arms import Group, StudyArm
from .drawing import PRINTED, TOP1_AXIS, series
from .words import Row, arms_table, budgets, power


def parts(group: Group, published: Sequence[PublishedPoint] = ()) -> list[Part]:
    """The table, its figure and the budgets.

    Args:
        group: the variants.
        published: whose top-1 stands beside those of the same name.
    """
    if not group.done:
        return []
    arms = sorted(group.arms, key=lambda arm: (arm.macs, arm.params))
    return [
        *_table(group, arms, {point.name: point for point in published}),
        _figure(group, [arm for arm in arms if arm.spread]),
        *budgets(group, {number: name_of(arm, group) for number, arm in enumerate(group.arms)}),
    ]


def name_of(arm: StudyArm, group: Group) -> str:
    """The variant, with its activation and shortcut where that is needed to tell it from another."""
    own = [one for one in group.arms if one.variant == arm.variant]
    return arm.label if len(own) == 1 else f"{arm.label} {arm.activation} {arm.shortcut}"


def _table(group: Group, arms: Sequence[StudyArm], published: Mapping[str, PublishedPoint]) -> list[Part]:
    smallest, others = arms[0], arms[1:]
    compared = differences([(arm.top1s, smallest.top1s) for arm in others])
    to_smallest = [None, *compared]
    timed = any(arm.seconds_per_epoch is not None for arm in arms)
    shown_published = any(arm.variant in published for arm in arms)
    last = [*(["s per epoch"] if timed else []), *(["published, ImageNet"] if shown_published else [])]
    rows = []
    for arm, difference in zip(arms, to_smallest, strict=True):
        more = []
        if timed:
            seconds = arm.seconds_per_epoch
            more.append(("" if seconds is None else duration(seconds) if seconds >= 10 else f"{seconds:.2g}s", seconds))
        if shown_published:
            point = published.get(arm.variant)
            more.append(("", None) if point is None else (f"{point.top1:.4f}", point.top1))
        ratios = arm.params / smallest.params, arm.macs / smallest.macs
        name = name_of(arm, group)
        texts = (name, count(arm.params), f"{ratios[0]:.1f}x", count(arm.macs), f"{ratios[1]:.1f}x")
        rows.append(Row(texts, (name, arm.params, ratios[0], arm.macs, ratios[1]), arm.spread, difference, more))
    beside = " The published top-1 is ImageNet's, of other training." if shown_published else ""
    table = arms_table(
        f"{group.key}-family",
        f"The family{group.suffix}",
        ("model", "params", "params ratio", "MACs", "MACs ratio"),
        rows,
        "to the first",
        "Ratios and differences are to the model with the fewest multiply-adds. The paper's are to its own model of "
        f"about the same accuracy, which so few seeds cannot tell.{beside}",
        last,
    )
    return [table, *power(compared, f"differences to {name_of(smallest, group)}")]


def _figure(group: Group, arms: Sequence[StudyArm]) -> Figure:
    """Accuracy against parameters, as the paper's figure 1: what is scaled joined, baselines by themselves."""
    spreads = [arm.spread for arm in arms if arm.spread]
    names = [name_of(arm, group) for arm in arms]
    trace = series("models", 0, [arm.params for arm in arms], spreads, names, lines=False)
    named = {
        "type": "scatter",
        "mode": "text",
        "x": [arm.params for arm in arms],
        "y": [one.mean for one in spreads],
        "text": [f"\u2002\u2002{label(name)}" for name in names],
        "textposition": "middle right",
        "textfont": {"color": COLORS[0]},
        "cliponaxis": False,
        "showlegend": False,
        "hoverinfo": "skip",
    }
    return Figure(
        key=f"{group.key}-params",
        title=f"Top-1 against parameters{group.suffix}",
        caption="Mean over seeds of the best validation top-1; bars are 95 % bootstrap intervals.",
        data=[trace, named],
        layout={
            "xaxis": log_axis("parameters", [float(arm.params) for arm in arms], lambda value: count(round(value))),
            "yaxis": TOP1_AXIS,
            "showlegend": False,
        },
        numbers=Numbers(
            ("model", "params", "macs", "n", "mean", "sd", "low", "high"),
            [(name, arm.params, arm.macs, *one.exact) for name, arm, one in zip(names, arms, spreads, strict=True)],
        ),
        height=480,
        printed=PRINTED,
    )
