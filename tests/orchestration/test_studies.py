"""The sections of the studies, against numbers worked out by hand from small fixed records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects
import pytest

from effnet_cluster.orchestration.report.accuracy import PublishedPoint
from effnet_cluster.orchestration.report.contents import Reported, StudyAsked, VariantAsked
from effnet_cluster.orchestration.report.parts import Facts, Figure, Gallery, Picture, Section, Table
from effnet_cluster.orchestration.report.report import write_report
from effnet_cluster.orchestration.report.significance import Difference, Spread
from effnet_cluster.orchestration.report.studies.arms import StudyArm, arms_of, choose, groups_of
from effnet_cluster.orchestration.report.studies.readings import (
    best_so_far,
    gradient_ratios,
    gradients_at_start,
    nearest_in_macs,
    saturates_at,
    standings,
    swaps,
)
from effnet_cluster.orchestration.report.studies.sections import studies
from effnet_cluster.orchestration.report.studies.sights import Sight, View, sights_section
from effnet_cluster.orchestration.tracking.histories import EpochPoint
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord

from .reports import BEGAN, points, record, reported
from .test_report_page import HOSTILE

BASE = VariantAsked("base", 1.0, "base")


def trials(variant: str, *top1s: float, **changes: Any) -> list[TrialRecord]:
    """A completed trial per seed."""
    name = "-".join([variant, *(str(value) for value in changes.values())])
    return [record(f"{name}-s{seed}", seed, top1, variant=variant, **changes) for seed, top1 in enumerate(top1s)]


def studied(
    name: str, records: Sequence[TrialRecord], variants: Mapping[str, VariantAsked], **changes: Any
) -> Reported:
    study = StudyAsked(name, f"the {name}", "What is it?", variants)
    return reported(records, study=study, **changes)


def section_of(experiment: Reported, published: Sequence[PublishedPoint] = ()) -> Section:
    (section,) = studies([experiment], published)
    return section


def figures(section: Section) -> dict[str, Figure]:
    """Their keys without the study's and the group's number."""
    return {part.key.split("-", 3)[3]: part for part in section.parts if isinstance(part, Figure)}


def tables(section: Section) -> dict[str, list[dict[str, str]]]:
    return {
        part.key.split("-", 3)[3]: [dict(zip(part.columns, row, strict=True)) for row in part.rows]
        for part in section.parts
        if isinstance(part, Table)
    }


def texts(section: Section) -> str:
    return "\n".join(part for part in section.parts if isinstance(part, str))


def numbers(figure: Figure) -> list[dict[str, Any]]:
    return [dict(zip(figure.numbers.columns, row, strict=True)) for row in figure.numbers.rows]


def only(records: Sequence[TrialRecord], **changes: Any) -> StudyArm:
    (arm,) = arms_of(reported(records, **changes))
    return arm


# Readings


def test_a_seed_counts_at_what_the_other_seeds_chose() -> None:
    grid = {"lr 1": {0: 0.5, 1: 0.75, 2: 0.25}, "lr 2": {0: 0.625, 1: 0.5, 2: 0.375}, "lr 3": {0: 1.0, 1: 1.0}}
    # Others of seed 0: 0.5 against 0.4375; of seed 1: 0.375 against 0.5; of seed 2: 0.625 against 0.5625. At lr 3,
    # seed 2 has not completed.
    assert choose(grid) == {0: "lr 1", 1: "lr 2", 2: "lr 1"}
    assert choose({"lr 1": {4: 0.5}, "lr 2": {4: 0.75}}) == {4: "lr 2"}
    assert choose({}) == {}
    rates = (0.1, 0.2)
    records = [one for rate in rates for one in trials("b0", *grid[f"lr {10 * rate:g}"].values(), swept={"lr": rate})]
    arm = only([*records, record("running", 3, 0.99, outcome=Outcome.RUNNING, swept={"lr": 0.2})])
    assert (arm.top1s, arm.started) == ({0: 0.5, 1: 0.5, 2: 0.25}, 7)
    assert arm.settings == {0: "lr 0.1", 1: "lr 0.2", 2: "lr 0.1"}
    assert arm.spread is not None
    assert (arm.spread.n, arm.spread.mean, arm.spread.sd) == (3, 1.25 / 3, pytest.approx(0.25 / math.sqrt(3)))


def test_a_line_saturates_where_its_last_supported_gain_ends() -> None:
    gain, loss = Difference(Spread(8, 0.1), 0.01), Difference(Spread(8, -0.1), 0.01)
    small, untested = Difference(Spread(8, 0.1), 0.06), Difference(Spread(1, 0.1))
    assert [saturates_at(steps) for steps in ([gain, small, gain, loss], [small, untested], [gain, gain], [])] == [
        3,
        0,
        2,
        0,
    ]


def test_about_equal_multiply_adds_are_within_a_quarter() -> None:
    arms = arms_of(reported([one for macs in (80, 100, 124, 200) for one in trials(f"m{macs}", 0.5, macs=macs)]))
    small, middle, large, largest = arms
    assert nearest_in_macs(middle, [small, large, largest]) is large  # 1.24 times as many, against 1 / 1.25
    assert nearest_in_macs(middle, [largest]) is None
    assert nearest_in_macs(middle, []) is None


def test_the_order_at_each_budget_by_hand() -> None:
    curves = {
        "early": [points(0.5, 0.5, 0.25, 0.5), points(0.75, 0.625, 0.5, 0.5)],
        "late": [points(0.25, 0.5, 0.75, 0.875)],
        "worst": [points(0.125, 0.125, 0.125, 0.25)],
        "unknown": [[]],
    }
    records = [
        record(f"{variant}{seed}", seed, 0.5, variant=variant)
        for variant, own in curves.items()
        for seed in range(len(own))
    ]
    histories = {f"run-{variant}{seed}": own for variant, all_ in curves.items() for seed, own in enumerate(all_)}
    found = standings(arms_of(reported(records, histories=histories)))
    # Of four epochs, one, two and four: of `early`, the best so far are 0.5 and 0.75 throughout.
    assert [(one.arm, one.n, one.means, one.ranks) for one in found] == [
        (1, 1, [0.25, 0.5, 0.875], [2, 2, 1]),
        (0, 2, [0.625, 0.625, 0.625], [1, 1, 2]),
        (2, 1, [0.125, 0.125, 0.25], [3, 3, 3]),
    ]
    assert [(better.arm, worse.arm) for better, worse in swaps(found)] == [(1, 0)]
    assert best_so_far(points(0.5, 0.75, 0.625), 0.5) == 0.75  # a half of three epochs is two
    assert best_so_far([], 0.5) is None
    assert best_so_far([EpochPoint(1, BEGAN)], 1.0) is None


def gradient_points(first: float, last: float) -> list[EpochPoint]:
    """Two epochs; in the second, the first part's norm is half as large."""
    return [
        EpochPoint(epoch, BEGAN, 0.5, 1.0 / epoch, gradients={"stem": first / epoch, "stage 1": 1.0, "head": last})
        for epoch in (1, 2)
    ]


def test_gradients_at_the_start_and_over_epochs_by_hand() -> None:
    histories = {
        "run-b0-s0": gradient_points(0.5, 2.0),
        "run-b0-s1": gradient_points(0.25, 4.0),
        "run-b0-s2": gradient_points(0.75, 0.0),  # no ratio to nothing
        "run-b0-s3": points(0.5, 0.5),
    }
    arm = only(trials("b0", 0.5, 0.5, 0.5, 0.5), histories=histories)
    at_start = gradients_at_start(arm)
    assert [(part, one.n, one.mean) for part, one in at_start.items()] == [
        ("stem", 3, 0.5),
        ("stage 1", 3, 1.0),
        ("head", 3, 2.0),
    ]
    ratios = gradient_ratios(arm)
    # 0.5 / 2 and 0.25 / 4, then half of that.
    assert {epoch: (one.n, one.mean) for epoch, one in ratios.items()} == {1: (2, 0.15625), 2: (2, 0.078125)}
    assert arm.losses == {0: 0.5, 1: 0.5, 2: 0.5, 3: 1.0}


def test_groups_are_what_can_be_compared() -> None:
    arms = arms_of(reported([*trials("b0", 0.5), *trials("b0", 0.5, activation="relu"), *trials("b1", 0.5)]))
    found = groups_of(arms, "study-1", ("activation", "shortcut"))
    assert [(group.key, group.suffix, len(group.arms)) for group in found] == [
        ("study-1-1", " (silu, residual)", 2),
        ("study-1-2", " (relu, residual)", 1),
    ]
    assert groups_of(arms, "study-1", ())[0].suffix == ""


# Sections


def test_scaling_by_hand() -> None:
    variants = {
        "b0": BASE,
        "b0-w2": VariantAsked("width", 2.0, "width x 2"),
        "b0-w1.4": VariantAsked("width", 1.4, "width x 1.4"),
        "b0-d2": VariantAsked("depth", 2.0, "depth x 2"),
        "b1": VariantAsked("compound", 2.0, "compound x 2"),
    }
    # Nine seeds, so that one of four comparisons can reach 4 × 2/2⁹ = 1/64.
    level = [0.5 + seed / 1024 for seed in range(9)]
    wobble = [0.25 * (-1) ** seed for seed in range(8)] + [0.0]
    records = [
        *trials("b0", *level, macs=100),
        *trials("b0-w1.4", *(one + 0.125 for one in level), macs=200),
        *trials("b0-w2", *(one + 0.125 + more for one, more in zip(level, wobble, strict=True)), macs=400),
        *trials("b0-d2", *level, macs=202),
        *trials("b1", *(one + 0.25 for one in level), macs=210),
    ]
    section = section_of(studied("scaling", records, variants))
    figure = figures(section)["macs"]
    lines = {str(trace["name"]): (trace["x"], trace["y"]) for trace in figure.data}
    middle = 0.5 + 4 / 1024
    assert lines == {
        "width": ([100, 200, 400], pytest.approx([middle, middle + 0.125, middle + 0.125])),
        "depth": ([100, 202], pytest.approx([middle, middle])),
        "compound": ([100, 210], pytest.approx([middle, middle + 0.25])),
    }
    bars = figure.data[0]["error_y"]
    row = numbers(figure)[0]
    assert (row["kind"], row["n"], row["mean"]) == ("width", 9, middle)
    assert bars["array"][0] == row["high"] - row["mean"] > 0 < bars["arrayminus"][0] == row["mean"] - row["low"]
    rows = {row["variant"]: row for row in tables(section)["models"]}
    assert list(rows) == ["b0", "b0-w1.4", "b0-w2", "b0-d2", "b1"]
    # Of four differences, two have p = 2/2⁹: times four, and three. Those of zero have p = 1.
    assert rows["b1"].items() >= {
        ("kind", "compound"),
        ("factor", "2"),
        ("n", "9"),
        ("to base: mean ± sd", "+0.2500 ± 0.0000"),
        ("p", "0.016"),
        ("which is", "higher"),
    }
    assert (rows["b0-d2"]["p"], rows["b0-d2"]["which is"]) == ("1", "not told apart")
    assert rows["b0"]["to base: mean ± sd"] == ""
    (saturates,) = [part for part in section.parts if isinstance(part, Facts)]
    assert saturates.values["width"].startswith(
        "at width x 1.4: no step beyond it is told apart as a gain with 9 seeds"
    )
    assert saturates.values["depth"].startswith("not known: from base on")
    assert saturates.values["compound"] == "not within these factors: the last step, to compound x 2, is still a gain"
    # Against the nearest of each dimension: width x 1.4 and depth x 2, two comparisons.
    compound = tables(section)["compound"]
    assert [
        (row["against"], row["its MACs ratio"], row["compound has more: mean ± sd"], row["p"]) for row in compound
    ] == [
        ("width x 1.4", "0.95", "+0.1250 ± 0.0000", "0.0078"),
        ("depth x 2", "0.96", "+0.2500 ± 0.0000", "0.0078"),
    ]
    assert "Comparisons of compound: 2 tested, with 9 paired seeds; no p below 0.0078" in texts(section)
    assert "fewer than six seeds can never reach 0.05" in texts(section)


def test_the_winning_triple_is_told_with_its_lead_and_corrected_for_all_pairs() -> None:
    variants = {name: VariantAsked("triple", 1.0, f"α {name}") for name in ("low", "best", "next")}
    records = [*trials("low", 0.25, 0.25), *trials("best", 0.75, 1.0), *trials("next", 0.75, 0.75)]
    variants["b1"] = VariantAsked("compound", 2.0, "φ 1")
    section = section_of(studied("coefficients", [*records, *trials("b1", 0.875)], variants))
    # Leads 0 and 0.25; signs of one that is zero: half of four are as far; of three pairs.
    assert (
        "α best has the best mean, 0.8750 ± 0.1768; the runner-up is α next, 0.7500 ± 0.0000. Over 2 paired seeds the "
        "lead is +0.1250 ± 0.1768"
    ) in texts(section)
    assert "they are not told apart (p 1, corrected for all 3 pairs" in texts(section)
    rows = tables(section)["triples-table"]
    assert [(row["triple"], row["winner has more: mean ± sd"]) for row in rows] == [
        ("α best", ""),
        ("α next", "+0.1250 ± 0.1768"),
        ("α low", "+0.6250 ± 0.1768"),
    ]
    found = figures(section)
    (marks,) = found["triples"].data
    assert (marks["x"], marks["y"]) == ([0.25, 0.75, 0.875], ["α low", "α next", "α best"])
    assert found["macs"].data[0]["y"] == [0.875]
    assert "Pairs of triples: 3 tested, with 2 paired seeds; no p below 1 can come of them" in texts(section)


def test_the_family_has_its_ratios_its_seconds_and_the_published_accuracies() -> None:
    variants = {name: VariantAsked("", 1.0, name) for name in ("b1", "b0")}
    records = [
        *trials("b1", 0.75, 0.875, params=300, macs=500, seconds=60.0),
        *trials("b0", 0.5, 0.75, params=200, macs=100, seconds=9.0),
    ]
    section = section_of(studied("family", records, variants), [PublishedPoint("b0", 1, 1, 0.77692)])
    small, large = tables(section)["family"]
    assert small.items() >= {("model", "b0"), ("params ratio", "1.0x"), ("s per epoch", "4.5s")}
    assert small["published, ImageNet"] == "0.7769"
    assert large.items() >= {
        ("model", "b1"),
        ("params ratio", "1.5x"),
        ("MACs ratio", "5.0x"),
        ("top-1: mean ± sd", "0.8125 ± 0.0884"),
        ("to the first: mean ± sd", "+0.1875 ± 0.0884"),
        ("p", "0.5"),
        ("s per epoch", "30s"),
        ("published, ImageNet", ""),
    }
    assert [(row["model"], row["params"], row["mean"]) for row in numbers(figures(section)["params"])] == [
        ("b0", 200, 0.625),
        ("b1", 300, 0.8125),
    ]
    assert "published, ImageNet" not in tables(section_of(studied("family", records, variants)))["family"][0]


def test_activations_by_hand() -> None:
    grid = {
        "silu": {0.1: (0.5, 0.75), 0.2: (0.625, 0.5)},  # each seed counts where the other is better
        "relu": {0.1: (0.25, 0.25), 0.2: (0.5, 0.625)},
    }
    records = [
        one
        for name, by_rate in grid.items()
        for rate, top1s in by_rate.items()
        for one in trials("b0", *top1s, activation=name, swept={"lr": rate})
    ]
    histories = {one.run_id: gradient_points(0.5 if one.activation == "silu" else 0.125, 2.0) for one in records}
    experiment = studied("activations", records, {"b0": BASE}, histories=histories)
    section = section_of(experiment)
    silu, relu = tables(section)["table"]
    # Seed 0: the other has 0.75 at lr 0.1, so 0.5; seed 1: the other has 0.625 at lr 0.2, so 0.5.
    assert silu["top-1: mean ± sd"] == "0.5000 ± 0.0000"
    assert silu["chosen settings"] == "lr 0.1 (1), lr 0.2 (1)"
    assert (relu["chosen settings"], relu["to silu: mean ± sd"], relu["p"]) == ("lr 0.2", "+0.0625 ± 0.0884", "1")
    found = figures(section)
    assert found["means"].data[0]["y"] == [0.5, 0.5625]
    (heat,) = found["grid"].data
    assert (heat["x"], heat["y"]) == (["lr 0.1", "lr 0.2"], ["silu", "relu"])
    assert heat["z"] == [[0.625, 0.5625], [0.25, 0.5625]]
    at_start = [(row["series"], row["part"], row["n"], row["mean"]) for row in numbers(found["gradients"])]
    assert at_start[:1] + at_start[-3:] == [
        ("silu", "stem", 2, 0.5),
        ("relu", "stem", 2, 0.125),
        ("relu", "stage 1", 2, 1.0),
        ("relu", "head", 2, 2.0),
    ]
    assert found["gradients"].layout["yaxis"]["type"] == "log"
    ratios = [(row["series"], row["epoch"], row["mean_ratio"]) for row in numbers(found["gradient-ratio"])]
    assert ratios == [("silu", 1, 0.25), ("silu", 2, 0.125), ("relu", 1, 0.0625), ("relu", 2, 0.03125)]
    # Its heat maps are not there a second time, with other p values.
    page = write_report([experiment]).decode()
    assert "Activation × variant" not in page
    assert page.index("Study: the activations") < page.index("Accuracy against cost</h2>")
    assert "Activation × variant" in write_report([replace(experiment, study=None)]).decode()


def test_shortcuts_by_hand() -> None:
    variants = {"b0": BASE, "b0-d2": VariantAsked("depth", 2.0, "depth x 2")}
    records = [
        *trials("b0", 0.5, 0.75, 1.0, shortcut="none"),
        *trials("b0", 0.75, 0.875, shortcut="residual"),
        *trials("b0-d2", 0.875, 1.0, shortcut="residual"),
        *trials("b0-d2", 0.25, 0.25, shortcut="none"),
    ]
    records[-1] = replace(records[-1], outcome=Outcome.FAILED)
    histories = {one.run_id: gradient_points(0.5, 2.0) for one in records}
    section = section_of(studied("shortcuts", records, variants, histories=histories))
    found = figures(section)
    assert [(row["shortcut"], row["factor"], row["n"], row["mean"]) for row in numbers(found["top1"])] == [
        ("none", 1.0, 3, 0.75),
        ("none", 2.0, 1, 0.25),
        ("residual", 1.0, 2, 0.8125),
        ("residual", 2.0, 2, 0.9375),
    ]
    # Side by side at their depth: an eighth of the distance between depths.
    assert [trace["x"] for trace in found["top1"].data] == [[1 - 0.03125, 2 - 0.03125], [1 + 0.03125, 2 + 0.03125]]
    assert {row["mean"] for row in numbers(found["loss"])} == {0.5}
    assert [trace["line"]["dash"] for trace in found["gradients"].data] == ["solid", "solid", "dash", "dash"]
    assert {trace["name"] for trace in found["gradients"].data} == {
        "none, base",
        "none, depth x 2",
        "residual, base",
        "residual, depth x 2",
    }
    rows = {(row["shortcut"], row["depth"]): row for row in tables(section)["table"]}
    assert rows["none", "x 1"].items() >= {
        ("to residual: mean ± sd", "-0.1875 ± 0.0884"),
        ("p", "0.5"),
        ("pairs", "2"),
    }
    assert rows["none", "x 2"].items() >= {
        ("completed", "1/2"),
        ("to residual: mean ± sd", "-0.6250"),
        ("which is", "not tested"),
        ("loss", "0.5000"),
    }
    assert rows["residual", "x 2"]["to residual: mean ± sd"] == ""
    assert "8 of 9 trials have completed, and they alone count. Left out: 1 failed." in texts(section)


def test_values_by_hand() -> None:
    emas = {0.0: (0.5, 0.625, 0.75), 0.9: (0.625, 0.75, 0.875)}
    records = [one for ema, top1s in emas.items() for one in trials("b0", *top1s, swept={"ema": ema})]
    histories = {one.run_id: points(one.best_top1, (one.best_top1 or 0) - 0.25) for one in records}
    experiment = studied("ema", records, {"b0": BASE}, histories=histories)
    assert experiment.study is not None
    experiment = replace(experiment, study=replace(experiment.study, compared=("ema",)))
    section = section_of(experiment)
    first, second = tables(section)["table"]
    assert first.items() >= {("model", "b0"), ("value", "ema 0"), ("last epoch", "0.3750 ± 0.1250"), ("which is", "")}
    # All three seeds gain the same, which of the eight signs two give: 2/8.
    assert second.items() >= {
        ("value", "ema 0.9"),
        ("top-1: mean ± sd", "0.7500 ± 0.1250"),
        ("last epoch", "0.5000 ± 0.1250"),
        ("to the first value: mean ± sd", "+0.1250 ± 0.0000"),
        ("p", "0.25"),
        ("which is", "not told apart"),
    }
    shown = numbers(figures(section)["values"])
    assert [(row["value"], row["n"], row["mean"]) for row in shown] == [("ema 0", 3, 0.625), ("ema 0.9", 3, 0.75)]


def transferred(name: str, scratch: Sequence[float], published: Sequence[float]) -> Reported:
    """Each start at two rates, of which the second is worse by an eighth."""
    records = [
        one
        for pretrained, top1s in ((False, scratch), (True, published))
        for rate, less in ((0.1, 0.0), (0.2, 0.125))
        for one in trials("lite0", *(top1 - less for top1 in top1s), swept={"pretrained": pretrained, "lr": rate})
    ]
    study = StudyAsked("transfer", "transfer", "?", {"lite0": BASE}, ("pretrained",))
    return replace(reported(records, study=study), name=name)


def test_transfer_is_compared_at_the_own_rate_of_each_start_and_over_data_sets() -> None:
    sets = [transferred("one", (0.5, 0.5), (0.75, 0.875)), transferred("two", (0.25, 0.75), (0.875, 0.875))]
    *own, over = studies([*sets, transferred("three", (1.0, 1.0), (1.0, 1.0))])
    assert [section.title for section in own] == [f"Study: transfer ({name})" for name in ("one", "two", "three")]
    first, second = tables(own[0])["table"]
    assert (first["value"], first["chosen settings"]) == ("pretrained off", "lr 0.1")
    assert second.items() >= {("value", "pretrained on"), ("to the first value: mean ± sd", "+0.3125 ± 0.0884")}
    (table,) = [part for part in over.parts if isinstance(part, Table)]
    # Errors: 0.1875 of 0.5, 0.125 of 0.5; the third set leaves none.
    assert [list(row) for row in table.rows] == [["lite0", table.rows[0][1], "0.38", "0.25", "", "0.31"]]
    assert table.numbers is not None
    assert table.numbers.rows[0][-1] == pytest.approx(math.sqrt(0.375 * 0.25))
    assert "1 without an error to compare are left out" in table.caption


def test_networks_of_two_kinds_are_scaled_apart() -> None:
    variants = {
        name: VariantAsked(kind, factor, name, base)
        for base in ("m", "r")
        for name, kind, factor in ((base, "base", 1.0), (f"{base}-w2", "width", 2.0))
    }
    records = [one for name in variants for one in trials(name, 0.5, 0.625)]
    section = section_of(studied("scaling", records, variants))
    titles = [part.title for part in section.parts if isinstance(part, Figure)]
    assert [title for title in titles if title.endswith("residual, m)")]
    assert [title for title in titles if title.endswith("residual, r)")]


def test_models_stand_side_by_side_on_each_image() -> None:
    picture = Picture(b"x", "image/png", "")
    sights = [
        Sight("base", "t0", [View(picture, "cat", "cat", 0.984), View(picture, "dog", "cat", 0.5)]),
        Sight("depth × 2", "t1", [View(picture, "cat", "dog", 0.75), View(picture, "dog", "dog", 1.0)]),
    ]
    section = sights_section([("x", sights)])
    galleries = [part for part in section.parts if isinstance(part, Gallery)]
    assert [gallery.title for gallery in galleries] == ["Image 1: cat", "Image 2: dog"]
    assert [[one.caption for one in gallery.pictures] for gallery in galleries] == [
        ["base: cat 98%", "depth × 2: dog 75%, wrong"],
        ["base: cat 50%, wrong", "depth × 2: dog 100%"],
    ]
    assert "base (t0), depth × 2 (t1)" in texts(section)
    several = sights_section([("x", sights), ("y", "no model")])
    assert "no model (y)." in texts(several)
    assert sights_section([]).parts == []


NAMES = ("scaling", "coefficients", "family", "activations", "shortcuts", "transfer", "ema", "cam")


@pytest.mark.parametrize("name", NAMES)
def test_a_study_that_has_only_begun_says_what_is_not_there(name: str) -> None:
    running = [replace(one, outcome=Outcome.RUNNING) for one in trials("b0", 0.5)]
    section = section_of(studied(name, running, {"b0": BASE}, planned=12))
    assert section.title == f"Study: the {name}"
    assert section.parts[0] == "What is it?"
    assert "0 of 12 trials have completed, and they alone count. Left out: 1 running, 11 not started." in texts(section)
    assert not figures(section)
    assert section_of(studied(name, [], {}, planned=12)).parts


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_without_rates_gradients_and_curves_is_shown_and_not_tested(name: str) -> None:
    variants = {"b0": BASE, "b1": VariantAsked("compound", 2.0, ""), "t": VariantAsked("triple", 1.0, "")}
    records = [
        one
        for variant in variants
        for shortcut in ("residual", "none")
        for one in trials(variant, 0.5, shortcut=shortcut, activation="silu" if shortcut == "residual" else "relu")
    ]
    section = section_of(studied(name, records, variants, histories={}))
    assert figures(section)
    shown = texts(section)
    assert "tested, with" not in shown
    # One activation per shortcut: within one, activations, shortcuts and the only triple have nothing to compare.
    assert ("are not tested" in shown) == (name in ("scaling", "family", "cam"))


def test_an_experiment_without_a_study_has_no_such_section() -> None:
    assert studies([reported(trials("b0", 0.5))]) == []
    unknown = studied("unheard of", trials("b0", 0.5), {})
    found = studies([reported(trials("b0", 0.5)), replace(unknown, name="x")])
    assert [(one.title, len(one.parts)) for one in found] == [("Study: the unheard of (x)", 2)]


@pytest.mark.parametrize("name", NAMES)
def test_plotly_knows_every_attribute_and_names_are_text(name: str) -> None:
    kinds = ("base", "width", "compound", "triple", "depth")
    variants = {f"{kind}{HOSTILE}": VariantAsked(kind, 1.0 + n, f"{kind} {HOSTILE}") for n, kind in enumerate(kinds)}
    records = [
        one
        for variant in variants
        for number, more in enumerate(("", HOSTILE))
        for rate in (0.1, 0.2)
        for one in trials(variant, 0.5, 0.625, activation=f"silu{more}", shortcut=f"residual{more}", swept={"lr": rate})
        if name in ("activations", "shortcuts") or not number
    ]
    gradients = [
        [replace(point, gradients={f"stem{HOSTILE}": 0.5, "head": 1.0}) for point in points(0.5, 0.625)]
        for _ in records
    ]
    histories = {one.run_id: own for one, own in zip(records, gradients, strict=True)}
    experiment = studied(name, records, variants, histories=histories)
    section = section_of(experiment)
    found = [part for part in section.parts if isinstance(part, Figure)]
    assert found
    keys = [part.key for part in section.parts if isinstance(part, Figure | Table)]
    assert len(set(keys)) == len(keys)
    for figure in found:
        plotly.graph_objects.Figure(figure.data, figure.layout)
        assert figure.numbers.rows
        assert "<b>" not in str(figure.data) + str(figure.layout)
