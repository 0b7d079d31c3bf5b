"""The best model's section, against numbers worked out by hand from eight images of three classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects
import pytest

from effnet_cluster.orchestration.report.champion import (
    Champion,
    Mistake,
    calibration_bins,
    calibration_error,
    champion,
    confusion,
)
from effnet_cluster.orchestration.report.parts import Facts, Figure, Gallery, Picture

PICTURE = Picture(b"\x89PNG", "image/png", "")
ONE = Champion(
    trial="flowers-b0-s0",
    source="models:/m-1",
    classes=("rose", "<b>tulip</b>", "daisy", "never seen"),
    targets=np.array([0, 0, 0, 0, 1, 1, 2, 2]),
    predicted=np.array([0, 0, 0, 1, 1, 2, 2, 2]),
    confidence=np.array([0.95, 1.0, 0.9, 0.55, 0.55, 0.75, 0.75, 0.25]),
    images=8,
    mistakes=[Mistake(PICTURE, PICTURE, 1, 2, 0.75), Mistake(PICTURE, None, 0, 1, 0.55)],
    logged_top1=0.75,
)


def figures(one: Champion) -> dict[str, Figure]:
    parts = champion([("flowers", one)]).parts
    return {part.key: part for part in parts if isinstance(part, Figure)}


def test_the_matrix_counts_each_image_by_its_class_and_what_it_is_taken_for() -> None:
    assert confusion(ONE).tolist() == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    figure = figures(ONE)["confusion-1"]
    (heat,) = figure.data
    assert heat["z"] == [[0.75, 0.25, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert heat["text"][0] == ["3", "1", "", ""]
    assert heat["x"] == heat["y"] == ["rose", "&lt;b&gt;tulip&lt;/b&gt;", "daisy", "never seen"]
    assert figure.numbers.rows[1] == ("rose", "<b>tulip</b>", 1)
    assert len(figure.numbers.rows) == 16


def test_the_worst_class_comes_first_and_one_without_images_is_left_out() -> None:
    figure = figures(ONE)["classes-1"]
    (bars,) = figure.data
    assert bars["x"] == [0.5, 0.75, 1.0]
    assert bars["y"] == ["&lt;b&gt;tulip&lt;/b&gt;", "rose", "daisy"]
    assert bars["text"][0] == "50.0% of 2"
    assert figure.numbers.rows[0] == ("rose", 4, 3, 0.75)


def test_calibration_by_hand() -> None:
    """Bins: 0.25 | 0.55, 0.55 (one right) | 0.75, 0.75 (one right) | 0.9 | 0.95, 1.0: a bin holds its upper end."""
    found = calibration_bins(ONE)
    assert [images for _, _, images, _, _ in found] == [1, 2, 2, 1, 2]
    assert [(low, high) for low, high, *_ in found] == [(0.2, 0.3), (0.5, 0.6), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0)]
    assert [sure for *_, sure, _ in found] == pytest.approx([0.25, 0.55, 0.75, 0.9, 0.975])
    assert [right for *_, right in found] == [1.0, 0.5, 0.5, 1.0, 1.0]
    # 1 × 0.75 + 2 × 0.05 + 2 × 0.25 + 1 × 0.1 + 2 × 0.025, of 8.
    assert calibration_error(ONE) == pytest.approx(1.5 / 8)


def test_mistakes_are_shown_with_what_they_are_and_their_maps_where_they_point_somewhere() -> None:
    parts = champion([("flowers", ONE)]).parts
    shown, maps = (part for part in parts if isinstance(part, Gallery))
    assert [picture.caption for picture in shown.pictures] == [
        "<b>tulip</b>, taken for daisy: 75.0%",
        "rose, taken for <b>tulip</b>: 55.0%",
    ]
    assert [picture.caption for picture in maps.pictures] == ["why daisy"]
    facts = next(part for part in parts if isinstance(part, Facts))
    assert facts.values["top-1"] == "0.7500, logged as 0.7500"
    assert facts.values["validation images"] == "8"
    assert not [part for part in champion([("x", replace(ONE, mistakes=[]))]).parts if isinstance(part, Gallery)]


def test_what_there_was_no_time_or_no_model_for_is_said() -> None:
    facts = champion([("flowers", replace(ONE, images=50))]).parts[0]
    assert isinstance(facts, Facts)
    assert facts.values["validation images"] == "8 of 50, the first ones"
    assert champion([("flowers", "the data are gone")]).parts == ["the data are gone"]
    assert champion([("a", ONE), ("b", "the data are gone")]).parts[-1] == "b: the data are gone"
    assert not champion([]).parts


def test_many_classes_have_no_matrix_and_the_worst_of_them_bars() -> None:
    numbers = np.arange(200)
    many = replace(
        ONE, classes=tuple(f"c{n}" for n in numbers), targets=numbers, predicted=np.maximum(numbers - 1, 100)
    )
    many = replace(many, confidence=np.full(200, 0.5), mistakes=[])
    found = figures(many)
    assert "confusion-1" not in found
    assert len(found["classes-1"].data[0]["x"]) == 40
    assert "The 40 worst of 200 classes" in found["classes-1"].caption
    assert len(found["classes-1"].numbers.rows) == 200


def test_classes_whose_shortened_names_are_the_same_stay_apart() -> None:
    alike = replace(ONE, classes=("x" * 80, "x" * 81, "daisy", "rose"))
    names = figures(alike)["confusion-1"].data[0]["x"]
    assert len(set(names)) == 4


def test_plotly_knows_every_attribute() -> None:
    for figure in figures(ONE).values():
        plotly.graph_objects.Figure(figure.data, figure.layout)
