"""Shortcuts: accuracy, training loss and gradients of each kind of shortcut as the network grows deeper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from ..parts import Figure, Numbers, Part
from ..significance import Difference, Seeds, differences, spread_of
from .arms import Group, StudyArm
from .drawing import PRINTED, TOP1_AXIS, beside, over_parts, series
from .readings import by_name, gradients_at_start
from .words import Row, arms_table, budgets, mean_sd, power

_REFERENCE = "residual"


def parts(group: Group) -> list[Part]:
    """Accuracy and loss over depth, the table, gradients at the start, and the budgets."""
    if not group.done:
        return []
    shortcuts = list(by_name(group.arms, "shortcut"))
    depths = sorted({arm.asked.factor for arm in group.arms})
    reference = _REFERENCE if _REFERENCE in shortcuts else shortcuts[0]
    gradients = over_parts(
        f"{group.key}-gradients",
        f"Norm of the gradient at the first step, by part of the network{group.suffix}",
        "Mean over seeds of completed trials; bars are 95 % bootstrap intervals. Colours and marks tell shortcuts, "
        "dashes depths.",
        {name_of(arm): gradients_at_start(arm) for arm in group.done},
        {name_of(arm): (shortcuts.index(arm.shortcut), depths.index(arm.asked.factor)) for arm in group.done},
    )
    loss_axis = {"title": {"text": "training loss, last epoch"}}
    loss = _over_depth(group, "loss", "Training loss as depth grows", lambda arm: arm.losses, loss_axis)
    found: list[Part] = [
        _over_depth(group, "top1", "Best top-1 as depth grows", lambda arm: arm.top1s, TOP1_AXIS),
        *_table(group, reference),
    ]
    found += [loss] if loss.numbers.rows else []
    found += [gradients] if gradients else []
    return [*found, *budgets(group, {number: name_of(arm) for number, arm in enumerate(group.arms)})]


def name_of(arm: StudyArm) -> str:
    """Shortcut and depth."""
    return f"{arm.shortcut}, {arm.label}"


def compared_with(arms: Sequence[StudyArm], reference: str) -> dict[int, Difference]:
    """What arms have more than the one with the reference shortcut of the same variant, by their numbers.

    Holm's correction is for all of them.
    """
    of_variant = {arm.variant: arm for arm in arms if arm.shortcut == reference}
    others = [number for number, arm in enumerate(arms) if arm.shortcut != reference and arm.variant in of_variant]
    found = differences([(arms[number].top1s, of_variant[arms[number].variant].top1s) for number in others])
    return dict(zip(others, found, strict=True))


def _table(group: Group, reference: str) -> list[Part]:
    compared = compared_with(group.arms, reference)
    rows = []
    for number, arm in sorted(enumerate(group.arms), key=lambda pair: (pair[1].asked.factor, pair[0])):
        loss = spread_of(list(arm.losses.values())) if arm.losses else None
        done = sum(map(len, arm.grid.values()))
        texts = (arm.shortcut, f"x {arm.asked.factor:g}", f"{done}/{arm.started}")
        exact = (arm.shortcut, arm.asked.factor, f"{done}/{arm.started}")
        more = [(mean_sd(loss), loss.mean if loss else None)]
        rows.append(Row(texts, exact, arm.spread, compared.get(number), more))
    table = arms_table(
        f"{group.key}-table",
        f"Shortcuts and depths{group.suffix}",
        ("shortcut", "depth", "completed"),
        rows,
        f"to {reference}",
        f"Differences are to {reference} at the same depth. Completed: of the trials that have started; a network that "
        "cannot be trained may fail. Loss: of training, in the last epoch.",
        ["loss"],
    )
    return [table, *power(compared.values(), f"differences to {reference}")]


def _over_depth(
    group: Group, key: str, title: str, values: Callable[[StudyArm], Seeds], axis: Mapping[str, object]
) -> Figure:
    """A line per shortcut over the factor of depth.

    Args:
        group: whose arms.
        key: ends the figure's.
        title: of the figure.
        values: what is shown of an arm, by seed.
        axis: the vertical one.
    """
    factors = sorted({arm.asked.factor for arm in group.arms})
    step = min((b - a for a, b in pairwise(factors)), default=1.0) / 4
    traces, rows = [], []
    # All shortcuts that were asked for, so that one looks alike in all figures.
    lines = by_name(group.arms, "shortcut")
    for place, (shortcut, arms) in enumerate(lines.items()):
        own = sorted((arm for arm in arms if values(arm)), key=lambda arm: arm.asked.factor)
        if own:
            spreads = [spread_of(list(values(arm).values())) for arm in own]
            x = [arm.asked.factor + beside(place, len(lines), step) for arm in own]
            traces.append(series(shortcut, place, x, spreads, [name_of(arm) for arm in own]))
            rows += [(shortcut, arm.asked.factor, *one.exact) for arm, one in zip(own, spreads, strict=True)]
    return Figure(
        key=f"{group.key}-{key}",
        title=f"{title}{group.suffix}",
        caption="Mean over seeds of completed trials; bars are 95 % bootstrap intervals. Marks of the same depth stand "
        "a little apart.",
        data=traces,
        layout={
            "xaxis": {
                "title": {"text": "factor on depth"},
                "tickvals": factors,
                "ticktext": [f"{factor:g}" for factor in factors],
                "showgrid": False,
            },
            "yaxis": axis,
        },
        numbers=Numbers(("shortcut", "factor", "n", "mean", "sd", "low", "high"), rows),
        height=420,
        printed=PRINTED,
    )
