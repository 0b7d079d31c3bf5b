"""The best model of an experiment: what it confuses, how sure it is, and where it looks when it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .parts import SCALE, Facts, Figure, Gallery, Numbers, Part, Picture, Section, label

# Classes of a matrix whose cells have numbers, of one at all, and bars of a chart: more could not be told apart.
MOST_NUMBERED, MOST_CLASSES, MOST_BARS = 20, 100, 40
_BINS = 10


@dataclass(frozen=True)
class Mistake:
    """One image that the model is wrong about.

    Attributes:
        picture: the image as the model sees it.
        overlay: its class activation map for the predicted class over it; None where the map points nowhere.
        target, predicted: numbers of classes.
        probability: of the predicted class.
    """

    picture: Picture
    overlay: Picture | None
    target: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Champion:
    """What a model says of the validation images.

    Attributes:
        trial: whose model it is.
        source: its address.
        classes: their names.
        targets: (N,) int64, the class of each image.
        predicted: (N,) int64, the most probable class.
        confidence: (N,) float, the probability of that.
        images: how many validation images there are; N may be smaller, where there was no time for all.
        mistakes: the most confident ones first.
        logged_top1: what was logged when the model was trained; None where that is not known.
    """

    trial: str
    source: str
    classes: tuple[str, ...]
    targets: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    images: int
    mistakes: Sequence[Mistake] = field(default_factory=tuple)
    logged_top1: float | None = None


def champion(found: Sequence[tuple[str, Champion | str]]) -> Section:
    """The best model of each experiment, or why there is nothing to say of it.

    Args:
        found: names of experiments, each with its best model or with the reason in one line.
    """
    parts: list[Part] = []
    for number, (name, one) in enumerate(found, 1):
        title = f"{name}: " if len(found) > 1 else ""
        parts += [f"{title}{one}"] if isinstance(one, str) else _champion(one, number, title)
    return Section("champion", "The best model", parts)


def _champion(one: Champion, number: int, title: str) -> list[Part]:
    seen = len(one.targets)
    right = one.targets == one.predicted
    facts = {
        "trial": one.trial,
        "model": one.source,
        "validation images": f"{seen:,}" + (f" of {one.images:,}, the first ones" if seen < one.images else ""),
        "top-1": f"{right.mean():.4f}" + ("" if one.logged_top1 is None else f", logged as {one.logged_top1:.4f}"),
        "calibration error": f"{calibration_error(one):.4f}",
    }
    parts: list[Part] = [Facts(f"{title}{one.trial}", facts)]
    if len(one.classes) <= MOST_CLASSES:
        parts.append(_confusion(one, number, title))
    parts += [_per_class(one, number, title), _calibration(one, number, title)]
    if one.mistakes:
        parts.append(_mistakes(one, title, maps=False))
    if any(mistake.overlay for mistake in one.mistakes):
        parts.append(_mistakes(one, title, maps=True))
    return parts


class Predictions(Protocol):
    """What a model says of some images, as `Champion` and `Examination` do."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """(N,), the class of each image."""

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """(N,), the most probable class."""


def confusion(one: Predictions) -> npt.NDArray[np.int64]:
    """(classes, classes): how many images of each class, by row, are taken for each class, by column."""
    size = len(one.classes)
    counts = np.bincount(one.targets * size + one.predicted, minlength=size * size)
    return counts.reshape(size, size)


def class_rows(one: Predictions) -> list[tuple[str, int, int, float]]:
    """Of each class that has images: its name, how many there are, how many are recognised, and their share."""
    counts = confusion(one)
    images, right = counts.sum(axis=1).tolist(), np.diag(counts).tolist()
    return [(name, of, hits, hits / of) for name, of, hits in zip(one.classes, images, right, strict=True) if of]


def _confusion(one: Champion, number: int, title: str) -> Figure:
    counts = confusion(one)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = _names(one)
    texts = [[str(count) if count else "" for count in row] for row in counts.tolist()]
    heat: dict[str, Any] = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": shares.tolist(),
        "text": texts,
        "hovertemplate": "%{y} taken for %{x}: %{text} (%{z:.1%})<extra></extra>",
        "colorscale": SCALE,
        "zmin": 0,
        "zmax": 1,
        "colorbar": {"title": {"text": "share"}, "tickformat": ".0%", "thickness": 14},
        **({"texttemplate": "%{text}"} if len(names) <= MOST_NUMBERED else {}),
    }
    axis = {"type": "category", "showgrid": False}
    height = min(900, 220 + 26 * len(names))
    pairs = ((row, column) for row in range(len(names)) for column in range(len(names)))
    return Figure(
        key=f"confusion-{number}",
        title=f"{title}Confusion matrix",
        caption="Numbers of validation images; the colour is the share of the class of the row.",
        data=[heat],
        layout={
            "xaxis": {**axis, "title": {"text": "taken for"}},
            "yaxis": {**axis, "title": {"text": "class"}, "autorange": "reversed"},
        },
        numbers=Numbers(
            ("class", "taken_for", "images"),
            [(one.classes[row], one.classes[column], int(counts[row, column])) for row, column in pairs],
        ),
        height=height,
    )


def _names(one: Champion) -> list[str]:
    """A label per class. Plotly would take two of the same text for one category."""
    names = [label(name) for name in one.classes]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def _per_class(one: Champion, number: int, title: str) -> Figure:
    rows = class_rows(one)
    labels = dict(zip(one.classes, _names(one), strict=True))
    worst = sorted(rows, key=lambda row: (row[3], row[0]))[:MOST_BARS]
    cut = f" The {MOST_BARS} worst of {len(rows):,} classes; the CSV has all." if len(rows) > MOST_BARS else ""
    return Figure(
        key=f"classes-{number}",
        title=f"{title}Accuracy of each class",
        caption=f"The share of a class's validation images that are recognised, and of how many.{cut}",
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "y": [labels[name] for name, *_ in worst],
                "x": [share for *_, share in worst],
                "text": [f"{share:.1%} of {of:,}" for _, of, _, share in worst],
                "textposition": "outside",
                "cliponaxis": False,
                "hoverinfo": "skip",
                "marker": {"color": "#0072B2"},
                "width": 0.7,
            }
        ],
        layout={
            "xaxis": {"range": [0, 1.15], "tickvals": [0, 0.25, 0.5, 0.75, 1], "tickformat": ".0%"},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
        },
        numbers=Numbers(("class", "images", "right", "accuracy"), rows),
        height=130 + 24 * len(worst),
    )


def calibration_bins(one: Champion) -> list[tuple[float, float, int, float, float]]:
    """Bins of equal width of the confidence: its ends, the images in it, their mean confidence and their accuracy.

    A bin holds its upper end. Empty bins are left out.
    """
    right = one.targets == one.predicted
    places = np.clip(np.ceil(one.confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    found = []
    for place in range(_BINS):
        own = places == place
        if own.any():
            means = float(one.confidence[own].mean()), float(right[own].mean())
            found.append((place / _BINS, (place + 1) / _BINS, int(own.sum()), *means))
    return found


def calibration_error(one: Champion) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy, over bins weighted by images."""
    bins = calibration_bins(one)
    return sum(images * abs(sure - right) for _, _, images, sure, right in bins) / len(one.targets)


def _calibration(one: Champion, number: int, title: str) -> Figure:
    bins = calibration_bins(one)
    most = max(images for _, _, images, _, _ in bins)
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": "share of images",
            "x": [(low + high) / 2 for low, high, *_ in bins],
            "y": [images / len(one.targets) for _, _, images, _, _ in bins],
            "width": 0.9 / _BINS,
            "marker": {"color": "#B9B9B9"},
            "hovertext": [f"{images:,} images" for _, _, images, _, _ in bins],
            "hoverinfo": "text",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "perfect",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": "#7F7F7F", "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "accuracy",
            "x": [sure for *_, sure, _ in bins],
            "y": [right for *_, right in bins],
            "marker": {"color": "#0072B2", "size": [6 + 8 * images / most for _, _, images, _, _ in bins]},
            "line": {"color": "#0072B2", "width": 1.5},
            "hovertemplate": "confidence %{x:.3f}<br>accuracy %{y:.3f}<extra></extra>",
        },
    ]
    return Figure(
        key=f"calibration-{number}",
        title=f"{title}Calibration",
        caption=f"Accuracy against confidence, in ten bins; expected calibration error {calibration_error(one):.4f}.",
        data=traces,
        layout={
            "xaxis": {"title": {"text": "confidence"}, "range": [0, 1.02]},
            "yaxis": {"title": {"text": "accuracy"}, "range": [0, 1.05]},
        },
        numbers=Numbers(("low", "high", "images", "mean_confidence", "accuracy"), bins),
        printed=350,
    )


def _mistakes(one: Champion, title: str, *, maps: bool) -> Gallery:
    pictures = []
    for mistake in one.mistakes:
        was, taken = one.classes[mistake.target], one.classes[mistake.predicted]
        shown = mistake.overlay if maps else mistake.picture
        told = f"why {taken}" if maps else f"{was}, taken for {taken}: {mistake.probability:.1%}"
        if shown is not None:
            pictures.append(Picture(shown.data, shown.kind, told))
    if not maps:
        return Gallery(
            f"{title}Most confident mistakes", pictures, "What the picture is, and what the model is sure of."
        )
    return Gallery(
        f"{title}Where the model looks in them",
        pictures,
        "Grad-CAM of the class that the picture is taken for, in the same order: light is where the evidence lies.",
    )
