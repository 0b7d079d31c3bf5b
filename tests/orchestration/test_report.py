"""Figures and tables of the report, against numbers worked out by hand from a few fixed records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects
import pytest

from effnet_cluster.orchestration.report import overview
from effnet_cluster.orchestration.report.accuracy import PublishedPoint, accuracy, curves, thinned
from effnet_cluster.orchestration.report.activations import activations, cells_of
from effnet_cluster.orchestration.report.contents import Reported, best_epoch, data_sets
from effnet_cluster.orchestration.report.fields import axis_of, fields, importance
from effnet_cluster.orchestration.report.parts import Figure, Section, Table, log_axis
from effnet_cluster.orchestration.report.schedule import faults, predictions, schedule, stretches, worker_seconds
from effnet_cluster.orchestration.tracking.histories import EpochPoint
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord

from .reports import BEGAN, points, record, reported, sweep


def figures(section: Section) -> list[Figure]:
    return [part for part in section.parts if isinstance(part, Figure)]


def tables(section: Section) -> list[Table]:
    return [part for part in section.parts if isinstance(part, Table)]


def trace(figure: Figure, name: str) -> Any:
    (found,) = [one for one in figure.data if one.get("name") == name and one.get("showlegend", True)]
    return found


def arm(variant: str, macs: int, activation: str, *top1s: float, **changes: Any) -> list[TrialRecord]:
    return [
        record(
            f"{variant}-{activation}-s{seed}",
            seed,
            top1,
            variant=variant,
            activation=activation,
            macs=macs,
            params=2 * macs,
            **changes,
        )
        for seed, top1 in enumerate(top1s)
    ]


# Trials and means


def test_the_best_epoch_is_the_first_of_the_best() -> None:
    assert best_epoch(points(0.5, 0.75, 0.625, 0.75)) == points(0.5, 0.75)[1]
    assert best_epoch([EpochPoint(1, BEGAN)]) is None
    assert best_epoch([]) is None


def test_a_trial_is_shown_with_its_best_and_its_last_epoch() -> None:
    one = record("a", top1=0.625, best_top1=0.75, epochs=3, epochs_done=3, seconds=90.0)
    failed = record("b", epochs_done=0, outcome=Outcome.FAILED, reason="no memory", seconds=0.0)
    experiment = reported([failed, one], histories={"run-a": points(0.5, 0.75, 0.625)})
    (table,) = tables(overview.trials([experiment]))
    by_column = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["trial"] for row in by_column] == ["a", "b"]  # the best first
    assert by_column[0].items() >= {
        ("best top-1", "0.7500"),
        ("of epoch", "2"),
        ("last top-1", "0.6250"),
        ("last top-5", "0.6750"),
        ("epochs", "3/3"),
        ("training", "1m30s"),
        ("params", "4.02M"),
        ("reason", ""),
    }
    assert by_column[1].items() >= {
        ("best top-1", ""),
        ("of epoch", ""),
        ("outcome", "failed"),
        ("reason", "no memory"),
    }
    assert table.numbers is not None
    exact = dict(zip(table.numbers.columns, table.numbers.rows[0], strict=True))
    assert (exact["best_top1"], exact["best_epoch"], exact["top1"]) == (0.75, 2, 0.625)
    assert (exact["params"], exact["macs"], exact["data"]) == (4_020_358, 8_470_000, "d" * 12)


def test_means_over_seeds_are_of_the_best_and_of_the_last_epochs() -> None:
    lasts = {0: 0.25, 1: 0.5}
    trials = [replace(one, top1=lasts[one.seed]) for one in arm("b0", 10, "silu", 0.5, 0.75)]
    (table,) = tables(overview.over_seeds([reported([*trials, *arm("b1", 20, "silu", 0.75, 0.875)])]))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["variant"] for row in rows] == ["b0", "b1"]
    # 0.5 and 0.75: mean 0.625, sample deviation 0.25 / √2; the last ones 0.25 and 0.5.
    assert (rows[0]["best: mean ± sd"], rows[0]["last: mean ± sd"]) == ("0.6250 ± 0.1768", "0.3750 ± 0.1768")
    # Differences 0.25 and 0.125; of the four signs, two are as far from zero.
    assert (rows[1]["to the first"], rows[1]["p"], rows[0]["p"]) == ("+0.1875", "0.5", "")
    assert "2 pairs give 0.5 at least" in table.caption


def test_one_seed_has_no_table_of_means() -> None:
    assert overview.over_seeds([reported(arm("b0", 10, "silu", 0.5))]).parts == []


def test_receipts_are_those_of_the_last_epoch_and_all_are_in_the_csv() -> None:
    epochs = [replace(point, receipt=0xAB00 + point.epoch) for point in points(0.5, 0.75)]
    (table,) = tables(overview.reproduce([reported([record("a", top1=0.75)], histories={"run-a": epochs})]))
    assert table.rows == [["flowers", "a", "0", "32", "d" * 12, "2", "000000000000ab02"]]
    assert table.numbers is not None
    assert table.numbers.rows == [
        ("flowers", "a", 1, "000000000000ab01"),
        ("flowers", "a", 2, "000000000000ab02"),
    ]


# Accuracy and curves


def test_an_activation_looks_alike_in_all_figures() -> None:
    trials = [record("a", top1=0.5, seconds=90.0), record("b", top1=0.75, activation="relu", seconds=60.0)]
    markers = [
        {name: trace(figure, name)["marker"]["color"] for name in ("silu", "relu")}
        for figure in figures(accuracy([reported(trials)]))
    ]
    assert len(markers) == 3
    assert markers[0]["silu"] != markers[0]["relu"]
    assert markers[1:] == markers[:1] * 2


def test_accuracy_is_the_mean_over_seeds_and_the_front_what_nothing_beats() -> None:
    trials = [
        *arm("b0", 10, "silu", 0.5, 0.75),  # mean 0.625: the cheapest
        *arm("b1", 20, "silu", 0.5, 0.5),  # dearer and worse
        *arm("b2", 40, "silu", 0.75, 0.875),  # mean 0.8125
        *arm("b2", 40, "relu", 0.25),
        record("stopped", top1=1.0, outcome=Outcome.STOPPED),
    ]
    by_key = {figure.key: figure for figure in figures(accuracy([reported(trials)]))}
    assert list(by_key) == ["accuracy-params-1", "accuracy-macs-1", "accuracy-seconds-1"]
    figure = by_key["accuracy-macs-1"]
    means = trace(figure, "silu")
    assert (means["x"], means["y"]) == ([10.0, 20.0, 40.0], [0.625, 0.5, 0.8125])
    front = trace(figure, "Pareto front")
    assert (front["x"], front["y"]) == ([10.0, 40.0], [0.625, 0.8125])
    assert [text.strip() for text in front["text"]] == ["b0", "b2"]
    assert trace(by_key["accuracy-params-1"], "relu")["x"] == [80.0]
    assert trace(by_key["accuracy-seconds-1"], "relu")["x"] == [60.0]
    rows = [dict(zip(figure.numbers.columns, row, strict=True)) for row in figure.numbers.rows]
    assert rows[0] == {
        "model": "b0",
        "kind": "silu",
        "macs": 10.0,
        "trials": 2,
        "mean_top1": 0.625,
        "min_top1": 0.5,
        "max_top1": 0.75,
        "front": True,
    }
    assert [row["front"] for row in rows] == [True, False, True, False]


def test_published_points_stand_beside_them_but_have_no_seconds() -> None:
    points_ = [PublishedPoint("b0", 5_288_548, 390_000_000, 0.77692)]
    by_key = {one.key: one for one in figures(accuracy([reported(arm("b0", 10, "silu", 0.5))], points_))}
    shown = trace(by_key["accuracy-params-1"], "published, ImageNet")
    assert (shown["x"], shown["y"], shown["text"]) == ([5_288_548], [0.77692], ["b0"])
    assert by_key["accuracy-params-1"].numbers.rows[-1][:3] == ("b0", "published", 5_288_548)
    assert len(by_key["accuracy-seconds-1"].data) == len(by_key["accuracy-macs-1"].data) - 1


def test_published_points_that_are_near_each_other_have_one_name() -> None:
    points_ = [
        PublishedPoint("b0", 100, 1, 0.5),
        PublishedPoint("near", 101, 1, 0.501),
        PublishedPoint("below", 101, 1, 0.25),
        PublishedPoint("b1", 1000, 1, 0.5),
    ]
    (figure, *_) = figures(accuracy([reported(arm("b0", 10, "silu", 0.5))], points_))
    assert trace(figure, "published, ImageNet")["text"] == ["b0", "", "below", "b1"]


def test_each_data_set_has_figures_of_its_own() -> None:
    other = [replace(one, data_digest="e" * 64) for one in arm("b0", 10, "silu", 0.25)]
    experiments = [reported(arm("b0", 10, "silu", 0.5)), reported(other, "others", data_name="others")]
    assert [data.name for data in data_sets(experiments)] == ["digits (dddddddd)", "others (eeeeeeee)"]
    found = figures(accuracy(experiments))
    assert len(found) == 6
    assert found[0].title == "Top-1 against parameters: digits (dddddddd)"
    assert [trace(figure, "silu")["y"] for figure in found] == [[0.5]] * 3 + [[0.25]] * 3


def test_curves_are_lines_with_gaps_between_the_trials() -> None:
    trials = [record("a", top1=0.75), record("b", 1, 0.5), record("c", 2, activation="relu")]
    histories = {"run-a": points(0.5, 0.75), "run-b": points(0.25, 0.375, 0.5), "run-c": []}
    top1, loss = figures(curves([reported(trials, histories=histories)]))
    line = trace(top1, "b0, silu")
    assert line["x"] == [1, 2, None, 1, 2, 3, None]
    assert line["y"] == [0.5, 0.75, None, 0.25, 0.375, 0.5, None]
    assert line["marker"]["size"] == [0, 8, 0, 0, 0, 8, 0]
    assert line["meta"] == {"line_texts": ["a", "b"]}
    assert trace(loss, "b0, silu")["y"] == [2.0, 1.0, None, 2.0, 1.0, 2.0 / 3, None]
    assert top1.numbers.rows == [
        *[("flowers", "a", 1, 0.5), ("flowers", "a", 2, 0.75)],
        *[("flowers", "b", 1, 0.25), ("flowers", "b", 2, 0.375), ("flowers", "b", 3, 0.5)],
    ]


def test_long_curves_are_thinned_evenly_with_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thinned([(epoch, 0.0) for epoch in range(1, 10)], 5) == [(epoch, 0.0) for epoch in (1, 3, 5, 7, 9)]
    assert thinned([(1, 0.5), (2, 0.5)], 5) == [(1, 0.5), (2, 0.5)]
    monkeypatch.setattr("effnet_cluster.orchestration.report.accuracy.MOST_POINTS", 6)
    trials = [record("a", top1=0.5), record("b", 1, 0.5)]
    figure, _ = figures(curves([reported(trials, histories={one.run_id: points(*[0.5] * 9) for one in trials})]))
    assert trace(figure, "b0, silu")["x"] == [1, 5, 9, None] * 2
    assert "Of 18 points, 3 of each trial are shown" in figure.caption


def test_one_epoch_is_no_curve() -> None:
    assert curves([reported([record("a", top1=0.5)], histories={"run-a": points(0.5)})]).parts == []


def test_ticks_of_a_logarithmic_axis_stand_at_the_values_but_not_too_close() -> None:
    axis = log_axis("x", [1.0, 10.0, 10.1, 100.0, 0.0], str)
    assert axis["tickvals"] == [1.0, 10.0, 100.0]
    assert axis["range"] == pytest.approx([-0.16, 2.16])
    assert log_axis("x", [0.0], str) == {"title": {"text": "x"}}


# Activations


def test_activations_are_compared_with_the_first_within_a_variant() -> None:
    cells = cells_of(
        {
            ("b0", "silu"): {0: 0.5, 1: 0.75},
            ("b0", "relu"): {0: 0.625, 1: 0.8125, 2: 1.0},
            ("b1", "silu"): {0: 0.5},
            ("b1", "relu"): {0: 0.25},
            ("b2", "relu"): {0: 0.25},
        }
    )
    assert [cell.mean for cell in cells] == [0.625, 0.8125, 0.5, 0.25, 0.25]
    # Seeds 0 and 1 alone: +0.125 and +0.0625.
    assert [cell.difference for cell in cells] == [None, 0.09375, None, -0.25, None]
    assert [cell.pairs for cell in cells] == [0, 2, 0, 1, 0]
    assert [cell.p for cell in cells] == [None, 0.5, None, None, None]
    assert cells[0].sd == pytest.approx(0.25 / 2**0.5)
    assert cells[2].sd is None


def test_variants_that_have_one_activation_each_make_no_map_of_activations() -> None:
    assert activations([reported([*arm("b0", 1, "silu", 0.5), *arm("resnet18", 2, "relu", 0.75)])]).parts == []


def test_significance_needs_six_pairs_and_is_corrected_for_all_cells() -> None:
    first = dict.fromkeys(range(7), 0.5)
    better = dict.fromkeys(range(7), 0.625)
    by_cell = {("b0", "silu"): first, ("b0", "relu"): better, ("b0", "elu"): better}
    assert [cell.p for cell in cells_of(by_cell)] == [None, 2 * 2 / 2**7, 2 * 2 / 2**7]
    trials = [*arm("b0", 1, "silu", *first.values()), *arm("b0", 1, "relu", *better.values())]
    (figure,) = figures(activations([reported(trials)]))
    (heat,) = figure.data
    assert (heat["x"], heat["y"], heat["z"]) == (["b0"], ["silu", "relu"], [[0.5], [0.625]])
    assert heat["text"] == [["0.5000 ± 0.0000"], ["0.6250 ± 0.0000<br>+0.1250*, p 0.016"]]
    assert figure.numbers.rows[1] == ("b0", "relu", 7, 0.625, 0.0, 0.125, 7, 2 / 2**7)
    assert "7 pairs give 0.016 at least" in figure.caption


def test_a_map_is_of_one_value_of_the_other_fields() -> None:
    trials = [
        *arm("b0", 1, "silu", 0.5, swept={"lr": 0.1}),
        *arm("b0", 1, "relu", 0.25, swept={"lr": 0.1}),
        *arm("b0", 1, "silu", 0.75, swept={"lr": 0.2}),
        *arm("b0", 1, "relu", 0.875, swept={"lr": 0.2}),
    ]
    found = figures(activations([reported(trials)]))
    assert [figure.title for figure in found] == ["Activation × variant (lr 0.1)", "Activation × variant (lr 0.2)"]
    assert [figure.data[0]["z"] for figure in found] == [[[0.5], [0.25]], [[0.75], [0.875]]]
    assert activations([reported(arm("b0", 1, "silu", 0.5, 0.75))]).parts == []


# Schedule, predictions, faults


def epoch(number: int, ended: float, worker_at: float | None, workers: int = 1, corrupt: int = 0) -> EpochPoint:
    return EpochPoint(number, BEGAN + ended, 0.5, 1.0, workers, worker_at and BEGAN + worker_at, corrupt)


RESTARTED = [epoch(1, 30, 10), epoch(2, 50, 10), epoch(3, 90, 60, corrupt=3), epoch(4, 130, 100, workers=2)]


def test_a_stretch_is_from_the_workers_start_to_their_last_epoch_and_the_last_to_the_trials_end() -> None:
    one = record("a", top1=0.5, began=BEGAN, ended=BEGAN + 140)
    found = [(part.began - BEGAN, part.ended - BEGAN, part.workers, part.epochs) for part in stretches(one, RESTARTED)]
    assert found == [(10, 50, 1, 2), (60, 90, 1, 1), (100, 140, 2, 1)]
    assert worker_seconds(one, RESTARTED) == 40 + 30 + 2 * 40
    # Without a restart, its start-up is its own; without epochs, or of an earlier version, only its ends are known.
    assert [(part.began, part.ended) for part in stretches(one, RESTARTED[:2])] == [(BEGAN, BEGAN + 140)]
    assert [(part.began, part.ended) for part in stretches(one, [])] == [(BEGAN, BEGAN + 140)]
    assert [(part.began, part.ended) for part in stretches(one, [epoch(1, 30, None)])] == [(BEGAN, BEGAN + 140)]
    assert stretches(record("a"), []) == []


def test_the_chart_has_a_row_per_trial_and_marks_restarts_and_ends() -> None:
    first = record("a", top1=0.5, began=BEGAN, ended=BEGAN + 140, outcome=Outcome.STOPPED, reason="asha: 3rd of 3")
    second = record("b", 1, 0.5, began=BEGAN + 5, ended=BEGAN + 25)
    histories = {"run-a": RESTARTED, "run-b": [epoch(1, 20, 6)]}
    (figure,) = figures(schedule([reported([first, second], histories=histories)]))
    # b's bar begins with its start-up, 5 s after a's workers would have: the first start is b's.
    one, two = trace(figure, "1 worker"), trace(figure, "2 workers")
    assert figure.layout["yaxis"]["ticktext"] == ["b", "a"]
    assert figure.layout["xaxis"]["title"]["text"] == "minutes since the first start"
    assert one["y"] == [0, 1, 1]
    assert [60 * at for at in one["base"]] == pytest.approx([0, 5, 55])
    assert [60 * length for length in one["x"]] == pytest.approx([20, 40, 30])
    assert ([60 * at for at in two["base"]], [60 * at for at in two["x"]]) == (pytest.approx([95]), pytest.approx([40]))
    assert trace(figure, "began again")["y"] == [1, 1]
    stopped = trace(figure, "stopped early")
    assert ([60 * at for at in stopped["x"]], stopped["y"]) == (pytest.approx([135]), [1])
    assert figure.numbers.rows[-1] == ("a", BEGAN + 100, BEGAN + 140, 40.0, 2, 1, "stopped")


def test_predictions_are_compared_for_trials_that_ran_in_one_go() -> None:
    def timed(name: str, predicted: float | None, took: float, **changes: Any) -> TrialRecord:
        ended = BEGAN + took
        return record(name, top1=0.5, predicted_seconds=predicted, began=BEGAN, ended=ended, **changes)

    trials = [timed("a", 100.0, 110.0), timed("b", 200.0, 180.0), timed("c", 50.0, 75.0), timed("d", None, 50.0)]
    trials += [timed("stopped", 50.0, 25.0, outcome=Outcome.STOPPED), timed("resumed", 50.0, 25.0)]
    epochs = {name: [epoch(1, 20, 6, workers=2)] for name in ("run-a", "run-b", "run-c", "run-d", "run-stopped")}
    experiment = reported(trials, histories=epochs | {"run-resumed": [epoch(1, -500, -600), epoch(2, 20, 6)]})
    section = predictions([experiment], price_per_hour=36.0)
    (figure,), (table,) = figures(section), tables(section)
    marks = trace(figure, "flowers")
    assert (marks["x"], marks["y"]) == ([100.0, 200.0, 50.0], [110.0, 180.0, 75.0])
    assert "1.10 times what was predicted" in figure.caption  # of 0.9, 1.1 and 1.5
    # Two workers: 2 × 350 s and 2 × 365 s, at 0.01 per second.
    assert table.rows == [["flowers", "3", "0.194", "0.203", "7.00", "7.30"]]
    assert not predictions([reported([timed("d", None, 50.0)])]).parts
    (plain,) = tables(predictions([experiment]))
    assert plain.columns[-1] == "actual worker-hours"


def test_faults_that_were_survived_are_counted_and_those_that_were_not_have_their_reason() -> None:
    trials = [record("a", top1=0.5), record("calm", 1, 0.5)]
    trials.append(record("b", 2, outcome=Outcome.FAILED, reason="no memory", epochs_done=1))
    histories = {"run-a": RESTARTED, "run-calm": RESTARTED[:2]}
    survived, ended = tables(faults([reported(trials, histories=histories)]))
    assert survived.rows == [["flowers", "a", "2", "1", "1 → 2", "3", "completed"]]
    assert ended.rows == [["flowers", "b", "failed", "1/2", "no memory"]]
    assert faults([reported([trials[1]], histories=histories)]).parts == []


# Swept fields


def test_importance_by_hand() -> None:
    # Mean 0.4, total 0.2; within groups 0.04 of two degrees of freedom; (0.16 - 0.02) / 0.2.
    assert importance(["a", "a", "b", "b"], [0.1, 0.3, 0.5, 0.7]) == pytest.approx(0.7)
    assert importance([1, 2, 1, 2], [0.1, 0.1, 0.7, 0.7]) == 0.0  # explains less than chance would
    assert importance([1, 2], [0.5, 0.5]) == 0.0
    # Ten numbers in five groups of two, each pair alike: all is between them.
    assert importance(range(10), [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]) == pytest.approx(1.0)


def test_values_stand_on_an_axis_by_size_logarithm_or_order() -> None:
    assert axis_of("x", [1, 3, 2]).places == [0.0, 1.0, 0.5]
    assert axis_of("x", [0.001, 0.1, 0.01]).places == pytest.approx([0.0, 1.0, 0.5])
    assert axis_of("x", ["none", "rand", "auto"]).places == [0.0, 0.5, 1.0]
    assert axis_of("x", [True, False]).ticks == [(0.0, "on"), (1.0, "off")]
    assert axis_of("x", [None, 1.0]).ticks == [(0.0, "none"), (1.0, "1")]
    assert axis_of("x", [0.001, 0.1]).ticks == [(0.0, "0.001"), (1.0, "0.1")]
    assert len(axis_of("x", list(range(50))).ticks) == 2


def test_every_trial_is_a_line_across_the_swept_fields() -> None:
    trials = [
        record(f"t{number}", number, top1, swept={"lr": rate, "policy": policy, "same": 1})
        for number, (top1, rate, policy) in enumerate(
            [(0.5, 1, "none"), (0.6, 1, "rand"), (0.7, 2, "none"), (0.8, 2, "rand"), (0.9, 3, "none")]
        )
    ]
    lines, bars = figures(fields([reported(trials)]))
    best = trace(lines, "best fifth")
    assert best["x"] == [0, 1, 2, None]
    # lr 3 stands at the top, alone; of the three with no policy, at the bottom, it is the best.
    assert best["y"] == pytest.approx([1.0, 0.16 * (2.5 / 3 - 0.5), 1.0, None])
    assert best["meta"] == {"line_texts": ["t4<br>top-1 0.9000"]}
    assert lines.numbers.columns == ("trial", "lr", "policy", "best_top1")
    assert lines.numbers.rows[1] == ("t1", 1, "rand", 0.6)
    assert bars.numbers.rows[0][0] == "lr"
    # lr: within 2 × 0.005 of 0.1, two degrees of freedom; (0.09 - 2 × 0.005) / 0.1.
    assert bars.numbers.rows[0][1] == pytest.approx(0.8)


def test_a_sweep_over_no_field_has_no_such_section() -> None:
    assert fields([sweep("flowers", "a" * 64)]).parts == []


@pytest.mark.parametrize("swept", [1, 3])
def test_plotly_knows_every_attribute_that_the_figures_set(swept: int) -> None:
    experiments: Sequence[Reported] = [sweep("flowers", "a" * 64, swept=swept)]
    sections = [
        *(accuracy(experiments, [PublishedPoint("b0", 1, 1, 0.5)]), curves(experiments), activations(experiments)),
        *(schedule(experiments), predictions(experiments), fields(experiments)),
    ]
    found = [figure for section in sections for figure in figures(section)]
    assert len(found) == (8 if swept == 1 else 12)
    for figure in found:
        plotly.graph_objects.Figure(figure.data, figure.layout)
        assert figure.numbers.rows
        assert figure.caption
    assert len({figure.key for figure in found}) == len(found)
