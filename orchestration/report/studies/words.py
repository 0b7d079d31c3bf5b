"""What all studies say in the same words: who has completed, how sure one can be, which order the budget changes."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...tracking.records import Outcome
from ..contents import Reported
from ..overview import number
from ..parts import Numbers, Part, Table
from ..significance import SIGNIFICANT, Difference, Spread, seeds_needed, smallest_p
from .arms import Group, StudyArm
from .readings import BUDGETS, standings, swaps

FEW_SEEDS = (
    "With n seeds, the smallest two-sided p of a sign-flip test is 2/2ⁿ, and with Holm's correction as many times that "
    "as there are comparisons: fewer than six seeds can never reach 0.05 (arXiv 2511.19794)."
)
TESTED = (
    "p is that of a sign-flip test of the paired seeds' differences with Holm's correction; two are called different "
    f"only where p < {SIGNIFICANT}. Could be seen: the difference that a t test of so many pairs finds with 80 % "
    "power at 5 %, as if it were the only comparison."
)
EXACT = ("difference", "pairs", "difference_sd", "difference_low", "difference_high", "p", "could_be_seen")
# Pairs that are named in a sentence.
_MOST_PAIRS = 8


@dataclass(frozen=True)
class Row:
    """A row of a study's table.

    Attributes:
        texts, exact: of the leading columns, for people and for the CSV.
        spread: of the top-1; None without completed trials.
        difference: to the reference; None of the reference itself.
        more: of the columns after the spread, for people and for the CSV.
    """

    texts: Sequence[str]
    exact: Sequence[Any]
    spread: Spread | None
    difference: Difference | None = None
    more: Sequence[tuple[str, Any]] = field(default_factory=tuple)


def arms_table(
    key: str,
    title: str,
    leading: Sequence[str],
    rows: Sequence[Row],
    compared: str,
    caption: str,
    more: Sequence[str] = (),
) -> Table:
    """Means with their spread, and differences to a reference with theirs.

    Args:
        key, title: of the table.
        leading, more: its first columns, and those after the spread.
        rows: in their order.
        compared: what the differences are, such as `to base`.
        caption: what is special about this table.
    """
    has_differences = any(row.difference for row in rows)
    # Nearly always the pairs are the seeds, and the table is wide without them.
    fewer = any(row.difference and row.spread and row.difference.pairs != row.spread.n for row in rows)
    measured = ["n", "top-1: mean ± sd", "95% interval"]
    differing = [f"{compared}: mean ± sd", *differing_columns(fewer)] if has_differences else []
    shown, numbers = [], []
    for row in rows:
        cells = [str(row.spread.n if row.spread else 0), mean_sd(row.spread), interval(row.spread)]
        differing_cells = texts_of(row.difference, fewer) if has_differences else []
        shown.append([*row.texts, *cells, *(text for text, _ in row.more), *differing_cells])
        numbers.append([*row.exact, *_exact(row.spread), *(value for _, value in row.more), *exact_of(row.difference)])
    return Table(
        key,
        title,
        [*leading, *measured, *more, *differing],
        shown,
        Numbers([*leading, "n", "mean", "sd", "low", "high", *more, *EXACT], numbers),
        f"{caption} Top-1 is the best of any epoch on the validation images; intervals are the means' percentile "
        f"bootstrap over seeds.{f' {TESTED}' if has_differences else ''}".strip(),
        frozenset({*leading, "which is"}),
    )


def mean_sd(spread: Spread | None, form: str = ".4f") -> str:
    """Such as `0.9123 ± 0.0045`; empty without a value."""
    if spread is None:
        return ""
    return f"{spread.mean:{form}}" if spread.sd is None else f"{spread.mean:{form}} ± {spread.sd:.4f}"


def interval(spread: Spread | None, form: str = ".4f") -> str:
    """Such as `0.9012 to 0.9201`; empty of one value."""
    return "" if spread is None or spread.low is None else f"{spread.low:{form}} to {spread.high:{form}}"


def differing_columns(with_pairs: bool = True) -> list[str]:
    """The columns that follow a mean difference."""
    return ["its 95% interval", *(["pairs"] if with_pairs else []), "p", "which is", "could be seen"]


def texts_of(one: Difference | None, with_pairs: bool = True) -> list[str]:
    """A difference's mean with its deviation and then the columns that follow; empty where there is none."""
    if one is None:
        return [""] * (1 + len(differing_columns(with_pairs)))
    pairs = [str(one.pairs)] if with_pairs else []
    tested = [number(one.p, ".2g"), one.verdict, number(one.detectable)]
    return [mean_sd(one.spread, "+.4f"), interval(one.spread, "+.4f"), *pairs, *tested]


def exact_of(one: Difference | None) -> list[Any]:
    """The columns `EXACT` of a difference."""
    if one is None:
        return [None] * len(EXACT)
    spread = one.spread
    sd, low, high = (spread.sd, spread.low, spread.high) if spread else (None, None, None)
    return [one.mean, one.pairs, sd, low, high, one.p, one.detectable]


def _exact(spread: Spread | None) -> list[Any]:
    return [*spread.exact] if spread else [0, None, None, None, None]


def account(experiment: Reported, arms: Sequence[StudyArm]) -> str:
    """How many trials count, which do not, and how swept settings were chosen."""
    outcomes = [record.outcome for record in experiment.records]
    completed = outcomes.count(Outcome.COMPLETED)
    others = [f"{outcomes.count(one):,} {one}" for one in Outcome if one in outcomes and one is not Outcome.COMPLETED]
    left = experiment.planned - len(outcomes)
    others += [f"{left:,} not started"] if left > 0 else []
    told = [f"{completed:,} of {max(experiment.planned, len(outcomes)):,} trials have completed, and they alone count."]
    if others:
        told.append(f"Left out: {', '.join(others)}.")
    empty = [one for one in arms if not one.spread]
    if empty and len(empty) < len(arms):
        told.append(f"{len(empty):,} of {len(arms):,} arms have no completed trial yet.")
    if any(len(arm.grid) > 1 for arm in arms):
        told.append(
            "Each arm counts at its own best settings: for each seed, those with the best mean over the other seeds. "
            "A seed that chose for itself would flatter. Settings at which fewer of the arm's seeds have completed "
            "than at others cannot be chosen."
        )
        if any(len(arm.chosen) == 1 and len(arm.grid) > 1 for arm in arms):
            told.append("Arms with one seed chose their settings by that seed, which flatters them.")
    return " ".join([*told, FEW_SEEDS])


def power(found: Collection[Difference], what: str) -> list[str]:
    """How small p can be with so many seeds, and which difference they could have seen; nothing of no differences.

    Args:
        found: those that are corrected together.
        what: they are, such as `differences to base`.
    """
    tested = [one for one in found if one.p is not None]
    if not tested:
        told = f"The {what} are not tested: that takes two seeds or more that both arms have."
        return [told] if found else []
    fewest, most = (extreme(one.pairs for one in tested) for extreme in (min, max))
    pairs, bound = (f"{most}" if fewest == most else f"{fewest} to {most}"), smallest_p(most, len(tested))
    needed = seeds_needed(len(tested))
    reach = f"no p below {bound:.2g} can come of them" + (
        f", so none is told apart; that takes {needed} seeds or more" if most < needed else ""
    )
    seen = sorted(one.detectable for one in tested if one.detectable is not None)
    spans = f" ({seen[0]:.4f} to {seen[-1]:.4f})" if len(seen) > 1 else ""
    return [
        f"{what[0].upper()}{what[1:]}: {len(tested)} tested, with {pairs} paired seeds; {reach}. By their spread, a "
        f"t test of so many seeds could have seen a difference of about {statistics.median(seen):.4f}{spans} with "
        "80 % power at 5 %, before the correction: a smaller one may be there."
    ]


def budgets(group: Group, names: Mapping[int, str]) -> list[Part]:
    """Which order of the arms changes with the budget; nothing where that cannot be read.

    Args:
        group: whose arms.
        names: of them, by their numbers.
    """
    found = standings(group.arms)
    if len(found) < 2 or not any(len(epochs) > 1 for arm in group.arms for epochs in arm.histories.values()):
        return []
    pairs = swaps(found)
    count = len(found) * (len(found) - 1) // 2
    if pairs:
        listed = [f"{names[better.arm]} and {names[worse.arm]}" for better, worse in pairs[:_MOST_PAIRS]]
        listed += [f"{len(pairs) - _MOST_PAIRS:,} more"] if len(pairs) > _MOST_PAIRS else []
        told = (
            f"The order changes with the budget. Pairs in another order at a quarter or half of the epochs: "
            f"{len(pairs):,} of {count:,}; the one that is better in the end first: {'; '.join(listed)}."
        )
    else:
        told = f"The order of the means is the same at a quarter, half and the whole of the epochs ({count:,} pairs)."
    if len({one.n for one in found}) > 1:
        told += " Some arms have more seeds than others, which is a part of it."
    told += (
        " These are orders of means, not tested; and an early epoch is not what a shorter training ends with, where "
        "the learning rate falls over the whole training."
    )
    table = Table(
        f"{group.key}-budgets",
        f"Order of the arms by budget{group.suffix}",
        ["arm", "n", *(f"at {share:.0%} of epochs" for share in BUDGETS), "ranks"],
        [
            [names[one.arm], str(one.n), *(f"{mean:.4f}" for mean in one.means), " → ".join(map(str, one.ranks))]
            for one in found
        ],
        Numbers(
            ["arm", "n", *(f"mean_{share:.0%}" for share in BUDGETS), *(f"rank_{share:.0%}" for share in BUDGETS)],
            [[names[one.arm], one.n, *one.means, *one.ranks] for one in found],
        ),
        "Means over seeds of the best validation top-1 so far.",
        frozenset({"arm", "ranks"}),
    )
    return [told, table]
