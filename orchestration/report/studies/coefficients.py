"""Coefficients: the triples α, β, γ of the paper's grid search, which of them won, and then φ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from ..parts import Figure, Numbers, Part, label
from ..quantities import count
from ..significance import Difference, differences
from .arms import Group, StudyArm
from .drawing import TOP1_AXIS, bars, told
from .scaling import accuracy_by_macs, lines_of
from .words import Row, arms_table, budgets, interval, mean_sd, power

# Triples that a figure shows: more have no room for their names.
_MOST_SHOWN = 40


def parts(group: Group) -> list[Part]:
    """The triples in order of their means, which won, the line of φ if it is there, and the budgets."""
    found: list[Part] = []
    triples = ranked([arm for arm in group.done if arm.asked.kind == "triple"])
    if triples:
        compared = all_pairs(triples)
        found += [_figure(group, triples), _won(triples, compared), *_table(group, triples, compared)]
    lines = {kind: arms for kind, arms in lines_of(group.done).items() if kind == "compound"}
    if lines:
        found.append(accuracy_by_macs(group, lines))
    if not found:
        return []
    return [*found, *budgets(replace(group, arms=triples), {number: arm.label for number, arm in enumerate(triples)})]


def ranked(arms: Sequence[StudyArm]) -> list[StudyArm]:
    """Arms by their mean top-1, the best first."""
    return sorted(arms, key=lambda arm: -arm.spread.mean if arm.spread else 0.0)


def all_pairs(triples: Sequence[StudyArm]) -> list[Difference]:
    """What each has more than those after it, with Holm's correction for all pairs; first those of the winner.

    That one wins is seen in the same numbers, so each pair might have been the one that is looked at.
    """
    return differences([(one.top1s, other.top1s) for one, other in combinations(triples, 2)])


def _figure(group: Group, triples: Sequence[StudyArm]) -> Figure:
    shown = list(reversed(triples[:_MOST_SHOWN]))
    spreads = [arm.spread for arm in shown if arm.spread]
    hidden = f" The best {len(shown)} of {len(triples)}." if len(shown) < len(triples) else ""
    return Figure(
        key=f"{group.key}-triples",
        title=f"Top-1 of each triple{group.suffix}",
        caption=f"Mean over seeds of the best validation top-1; bars are 95 % bootstrap intervals.{hidden}",
        data=[
            {
                "type": "scatter",
                "mode": "markers",
                "x": [one.mean for one in spreads],
                "y": [label(arm.label) for arm in shown],
                "error_x": bars(spreads, "#0072B2"),
                "text": [label(told(one)) for one in spreads],
                "hoverinfo": "text+y",
                "marker": {"color": "#0072B2", "size": 9},
            }
        ],
        layout={"xaxis": TOP1_AXIS, "yaxis": {"type": "category"}},
        numbers=Numbers(
            ("triple", "variant", "n", "mean", "sd", "low", "high"),
            [(arm.label, arm.variant, *one.exact) for arm in triples if (one := arm.spread)],
        ),
        height=150 + 26 * len(shown),
    )


def _won(triples: Sequence[StudyArm], compared: Sequence[Difference]) -> str:
    """Which triple won, and by how much over the next one."""
    first = triples[0]
    if len(triples) == 1:
        return f"{first.label} is the only triple with completed trials, with {mean_sd(first.spread)}."
    second, lead = triples[1], compared[0]
    said = f"{first.label} has the best mean, {mean_sd(first.spread)}; the runner-up is {second.label}, "
    said += f"{mean_sd(second.spread)}. "
    if lead.spread is None:
        return f"{said}They share no seed, so what lies between them is not known."
    said += f"Over {lead.pairs} paired seeds the lead is {mean_sd(lead.spread, '+.4f')}"
    within = interval(lead.spread, "+.4f")
    said += f", 95 % interval {within}" if within else ""
    if lead.p is None:
        return f"{said}: not tested."
    verdict = "the test tells them apart" if lead.is_told_apart else "they are not told apart"
    return (
        f"{said}: {verdict} (p {lead.p:.2g}, corrected for all {len(compared):,} pairs, since "
        "the winner was picked by these numbers). The lead of a winner that was picked so is too large on average."
    )


def _table(group: Group, triples: Sequence[StudyArm], compared: Sequence[Difference]) -> list[Part]:
    own = [arm for arm in group.arms if arm.asked.kind == "triple"]
    rows = [
        Row(
            (arm.label, count(arm.macs), count(arm.params)),
            (arm.label, arm.macs, arm.params),
            arm.spread,
            compared[place - 1] if 0 < place < len(triples) else None,
        )
        for place, arm in enumerate([*triples, *(arm for arm in own if arm not in triples)])
    ]
    table = arms_table(
        f"{group.key}-triples-table",
        f"Triples in order of their means{group.suffix}",
        ("triple", "MACs", "params"),
        rows,
        "winner has more",
        f"Differences are what the winner has more, corrected for all {len(compared):,} pairs of triples.",
    )
    return [table, *power(compared, "pairs of triples")]
