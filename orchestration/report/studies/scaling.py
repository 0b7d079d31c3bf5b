"""Scaling: width, depth and resolution alone against all three at once, the paper's figures 3 and 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..parts import Facts, Figure, Numbers, Part, Table, log_axis
from ..quantities import count
from ..significance import Difference, differences
from .arms import Group, StudyArm
from .drawing import PRINTED, TOP1_AXIS, series
from .readings import ABOUT_EQUAL, nearest_in_macs, saturates_at
from .words import EXACT, TESTED, Row, arms_table, budgets, differing_columns, exact_of, power, texts_of

SINGLE = ("width", "depth", "resolution")
_KINDS = (*SINGLE, "compound")


def parts(group: Group) -> list[Part]:
    """The figure, its table, where each dimension saturates, compound against the others, and the budgets."""
    base, lines = base_of(group.done), lines_of(group.done)
    if not group.done:
        return []
    found: list[Part] = [accuracy_by_macs(group, lines), *_table(group, base)]
    found += _saturation(group, lines, base)
    found += _compound(group, lines)
    return [*found, *budgets(group, {number: arm.label for number, arm in enumerate(group.arms)})]


def base_of(arms: Sequence[StudyArm]) -> StudyArm | None:
    """The variant that was scaled; None where it has no completed trial."""
    return next((arm for arm in arms if arm.asked.kind == "base"), None)


def lines_of(arms: Sequence[StudyArm]) -> dict[str, list[StudyArm]]:
    """The line of each dimension in order of its factor, from the base on."""
    base = base_of(arms)
    found = {}
    for kind in _KINDS:
        own = sorted((arm for arm in arms if arm.asked.kind == kind), key=lambda arm: arm.asked.factor)
        if own:
            found[kind] = [*([base] if base else []), *own]
    return found


def accuracy_by_macs(group: Group, lines: Mapping[str, Sequence[StudyArm]]) -> Figure:
    """Top-1 against multiply-adds, a line per dimension."""
    traces: list[dict[str, Any]] = []
    rows = []
    for number, (kind, arms) in enumerate(lines.items()):
        spreads = [arm.spread for arm in arms if arm.spread]
        traces.append(series(kind, number, [arm.macs for arm in arms], spreads, [arm.label for arm in arms]))
        rows += [
            (kind, arm.variant, arm.asked.factor, arm.macs, *one.exact) for arm, one in zip(arms, spreads, strict=True)
        ]
    axis = log_axis("multiply-adds per image", [float(row[3]) for row in rows], lambda value: count(round(value)))
    return Figure(
        key=f"{group.key}-macs",
        title=f"Top-1 against multiply-adds, by what is scaled{group.suffix}",
        caption="Mean over seeds of the best validation top-1; bars are 95 % bootstrap intervals."
        + (" All lines begin at the base model." if base_of(group.done) else ""),
        data=traces,
        layout={"xaxis": axis, "yaxis": TOP1_AXIS},
        numbers=Numbers(("kind", "variant", "factor", "macs", "n", "mean", "sd", "low", "high"), rows),
        height=480,
        printed=PRINTED,
    )


def _table(group: Group, base: StudyArm | None) -> list[Part]:
    arms = sorted(group.arms, key=lambda arm: (_place(arm), arm.asked.factor))
    others = [arm for arm in arms if base is not None and arm is not base]
    compared = differences([(arm.top1s, base.top1s) for arm in others]) if base else []
    to_base = dict(zip((arm.variant for arm in others), compared, strict=True))
    rows = [
        Row(
            (arm.variant, arm.asked.kind, f"{arm.asked.factor:g}", count(arm.macs), count(arm.params)),
            (arm.variant, arm.asked.kind, arm.asked.factor, arm.macs, arm.params),
            arm.spread,
            to_base.get(arm.variant),
        )
        for arm in arms
    ]
    title = f"Scaled models{group.suffix}"
    leading = ("variant", "kind", "factor", "MACs", "params")
    table = arms_table(f"{group.key}-models", title, leading, rows, "to base", "Differences are to the base model.")
    return [table, *power(compared, "differences to base")]


def _place(arm: StudyArm) -> int:
    kinds = ("base", *_KINDS)
    return kinds.index(arm.asked.kind) if arm.asked.kind in kinds else len(kinds)


def _saturation(group: Group, lines: Mapping[str, Sequence[StudyArm]], base: StudyArm | None) -> list[Part]:
    """In words, where each line saturates; its steps are tested with the correction for those of all lines."""
    pairs = {kind: list(zip(arms[1:], arms, strict=False)) for kind, arms in lines.items()}
    tested = iter(differences([(one.top1s, other.top1s) for own in pairs.values() for one, other in own]))
    steps = {kind: [next(tested) for _ in own] for kind, own in pairs.items()}
    told = {kind: saturation(lines[kind], own) for kind, own in steps.items() if own}
    if not told:
        return []
    begins = "" if base else " The base model has no completed trial, so the lines begin at their first models."
    return [
        Facts(f"Where each dimension saturates{group.suffix}", told),
        "A step is from one model of a line to the next; several small ones may add up to what the table's differences "
        f"show.{begins}",
        *power([step for own in steps.values() for step in own], "steps of all lines"),
    ]


def saturation(arms: Sequence[StudyArm], steps: Sequence[Difference]) -> str:
    """What can be said of where a line saturates.

    Args:
        arms: of the line.
        steps: what each but the first has more than the one before it.
    """
    if not any(step.p is not None for step in steps):
        return "no step is tested"
    seeds = max(step.pairs for step in steps)
    at = saturates_at(steps)
    losses = "".join(f"; {arms[number].label} is lower than the one before it" for number in _lower(steps))
    if at == len(steps):
        return f"not within these factors: the last step, to {arms[at].label}, is still a gain{losses}"
    untested = sum(step.p is None for step in steps[at:])
    losses += f"; {untested} of these steps untested" if untested else ""
    beyond = [step.detectable for step in steps[at:] if step.detectable is not None]
    missed = f"; steps of less than about {max(beyond):.4f} may have been missed" if beyond else ""
    if at == 0:
        return f"not known: from {arms[0].label} on, no step is told apart as a gain with {seeds} seeds{losses}{missed}"
    return f"at {arms[at].label}: no step beyond it is told apart as a gain with {seeds} seeds{losses}{missed}"


def _lower(steps: Sequence[Difference]) -> list[int]:
    return [number for number, step in enumerate(steps, 1) if step.verdict == "lower"]


def _compound(group: Group, lines: Mapping[str, Sequence[StudyArm]]) -> list[Part]:
    """Compound against each single dimension, where they cost about the same."""
    pairs = [
        (arm, kind, nearest)
        for arm in lines.get("compound", ())
        if arm.asked.kind == "compound"
        for kind in SINGLE
        if (nearest := nearest_in_macs(arm, [one for one in lines.get(kind, ()) if one.asked.kind == kind]))
    ]
    if not pairs:
        return []
    compared = differences([(arm.top1s, nearest.top1s) for arm, _, nearest in pairs])
    rows, numbers = [], []
    for (arm, kind, nearest), one in zip(pairs, compared, strict=True):
        ratio = nearest.macs / arm.macs
        rows.append([arm.label, nearest.label, f"{ratio:.2f}", *texts_of(one)])
        numbers.append([arm.variant, kind, nearest.variant, ratio, *exact_of(one)])
    table = Table(
        f"{group.key}-compound",
        f"Compound against one dimension at about equal multiply-adds{group.suffix}",
        ["compound", "against", "its MACs ratio", "compound has more: mean ± sd", *differing_columns()],
        rows,
        Numbers(["compound", "kind", "against", "macs_ratio", *EXACT], numbers),
        "Of each dimension, the model that is nearest in multiply-adds, if neither has more than "
        f"{ABOUT_EQUAL:g} times the other's. {TESTED}",
        frozenset({"compound", "against", "which is"}),
    )
    return [table, *power(compared, "comparisons of compound")]
