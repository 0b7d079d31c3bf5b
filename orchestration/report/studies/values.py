"""Values of swept fields that a study compares: a start from published weights, decays of averaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..contents import Reported
from ..parts import Figure, Numbers, Part, Section, Table, label
from ..quantities import count
from ..significance import Difference, differences, spread_of
from .activations import settings_text
from .arms import Group, StudyArm, arms_of
from .drawing import PRINTED, TOP1_AXIS, beside, series
from .words import Row, arms_table, budgets, mean_sd, power


def parts(group: Group) -> list[Part]:
    """The table, its figure and the budgets."""
    if not group.done:
        return []
    compared = to_first_values(group.arms)
    names = {number: f"{network_of(arm, group)}, {arm.value}" for number, arm in enumerate(group.arms)}
    return [_figure(group), *_table(group, compared), *budgets(group, names)]


def network_of(arm: StudyArm, group: Group) -> str:
    """The variant, with its activation and shortcut where other arms have others of them."""
    more = [getattr(arm, name) for name in ("activation", "shortcut") if _differs(group, name)]
    return " ".join([arm.variant, *more])


def _differs(group: Group, name: str) -> bool:
    of_variant: dict[str, set[str]] = {}
    for arm in group.arms:
        of_variant.setdefault(arm.variant, set()).add(getattr(arm, name))
    return any(len(found) > 1 for found in of_variant.values())


def to_first_values(arms: Sequence[StudyArm]) -> dict[int, Difference]:
    """What arms have more than the first value of the same network, by their numbers; Holm's correction is for all."""
    first: dict[tuple[str, str, str], StudyArm] = {}
    for arm in arms:
        first.setdefault((arm.variant, arm.activation, arm.shortcut), arm)
    own = {number: first[arm.variant, arm.activation, arm.shortcut] for number, arm in enumerate(arms)}
    others = [number for number, reference in own.items() if reference is not arms[number]]
    found = differences([(arms[number].top1s, own[number].top1s) for number in others])
    return dict(zip(others, found, strict=True))


def _table(group: Group, compared: Mapping[int, Difference]) -> list[Part]:
    swept = any(len(arm.grid) > 1 for arm in group.arms)
    rows = []
    for number, arm in enumerate(group.arms):
        chosen = (settings_text(arm) if arm.settings else "",) if swept else ()
        last = spread_of(list(arm.last_top1s.values())) if arm.last_top1s else None
        texts = (network_of(arm, group), arm.value, *chosen, count(arm.params))
        exact = (network_of(arm, group), arm.value, *chosen, arm.params)
        more = [(mean_sd(last), last.mean if last else None)]
        rows.append(Row(texts, exact, arm.spread, compared.get(number), more))
    table = arms_table(
        f"{group.key}-table",
        f"What is compared{group.suffix}",
        ("model", "value", *(["chosen settings"] if swept else []), "params"),
        rows,
        "to the first value",
        "Differences are to the first value of the same model.",
        ["last epoch"],
    )
    return [table, *power(compared.values(), "differences to the first value")]


def _figure(group: Group) -> Figure:
    """A mark per network and value; those of a network stand beside each other."""
    networks = list(dict.fromkeys(network_of(arm, group) for arm in group.arms))
    values = list(dict.fromkeys(arm.value for arm in group.arms))
    traces, rows = [], []
    for place, value in enumerate(values):
        own = [arm for arm in group.done if arm.value == value]
        spreads = [arm.spread for arm in own if arm.spread]
        x = [networks.index(network_of(arm, group)) + beside(place, len(values), 1.0) for arm in own]
        traces.append(series(value, place, x, spreads, [settings_text(arm) for arm in own], False))
        rows += [(network_of(arm, group), value, *one.exact) for arm, one in zip(own, spreads, strict=True)]
    return Figure(
        key=f"{group.key}-values",
        title=f"Top-1 by value{group.suffix}",
        caption="Mean over seeds of the best validation top-1; bars are 95 % bootstrap intervals.",
        data=traces,
        layout={
            "xaxis": {"tickvals": [*range(len(networks))], "ticktext": [label(name) for name in networks]},
            "yaxis": TOP1_AXIS,
        },
        numbers=Numbers(("model", "value", "n", "mean", "sd", "low", "high"), rows),
        height=420,
        printed=PRINTED,
    )


def over_data(experiments: Sequence[Reported]) -> Section:
    """What published weights leave of the error of a random start, on each data set and in the geometric mean.

    The paper's table 5 compares its models with others in the same way, over eight data sets.
    """
    ratios: dict[str, dict[str, float]] = {}
    params: dict[str, int] = {}
    left_out = 0
    for experiment in experiments:
        by_variant: dict[str, list[StudyArm]] = {}
        for arm in arms_of(experiment):
            by_variant.setdefault(arm.variant, []).append(arm)
        for variant, arms in by_variant.items():
            ratio = error_ratio(arms)
            left_out += ratio is None
            if ratio is not None:
                ratios.setdefault(variant, {})[experiment.name] = ratio
                params[variant] = arms[0].params
    names = [experiment.name for experiment in experiments]
    shown, exact = [], []
    for variant, own in ratios.items():
        found, mean = [own.get(name) for name in names], geometric_mean(list(own.values()))
        texts = ["" if one is None else f"{one:.2f}" for one in found]
        shown.append([variant, count(params[variant]), *texts, f"{mean:.2f}"])
        exact.append([variant, params[variant], *found, mean])
    told = f" {left_out} without an error to compare are left out." if left_out else ""
    table = Table(
        "transfer-over-data",
        "Error with published weights over error without",
        ["model", "params", *names, "geometric mean"],
        shown,
        Numbers(["model", "params", *names, "geometric_mean"], exact),
        "Of 1 - mean top-1 over seeds; below 1, published weights are better. The geometric mean is over the data sets "
        f"that a model has; it is not tested.{told}",
        frozenset({"model"}),
    )
    return Section("transfer", "Transfer over data sets", [table] if shown else [])


def error_ratio(arms: Sequence[StudyArm]) -> float | None:
    """The error of the second value over that of the first; None where one is missing or the first makes none."""
    if len(arms) < 2 or not arms[0].spread or not arms[1].spread or arms[0].spread.mean >= 1:
        return None
    return (1 - arms[1].spread.mean) / (1 - arms[0].spread.mean)


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values; 0 where one of them is."""
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0
