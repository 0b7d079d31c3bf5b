"""What a trial's model confuses and where it looks, as pictures for its MLflow run, whose page shows PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ..tracking.examination import Examination, Seen
from .champion import MOST_BARS, MOST_CLASSES, MOST_NUMBERED, class_rows, confusion
from .overlay import overlay
from .parts import COLORS, SCALE, Numbers

_NAME = 24  # characters
# Pixels: a picture's edge, what is between pictures, and what is above them for a text.
_SIDE, _GAP, _TEXT = 160, 15, 45
_COLUMNS, _DPI = 3, 100
_SHARES = LinearSegmentedColormap.from_list("shares", SCALE)


def trial_figures(said: Examination) -> dict[str, bytes]:
    """Files by their names: pictures (PNG), and the numbers of each class (CSV). Nothing where no image was seen."""
    if not len(said.targets):
        return {}
    seen, right = len(said.targets), float(np.mean(said.targets == said.predicted))
    of = f"{seen:,}" if seen == said.images else f"{seen:,} of {said.images:,}"
    title = f"{of} validation images, top-1 {right:.4f}"
    rows = class_rows(said)
    files = {"classes.csv": Numbers(("class", "images", "right", "accuracy"), rows).to_csv().encode()}
    files["classes.png"] = _png(_bars(rows, title))
    if len(said.classes) <= MOST_CLASSES:
        files["confusion.png"] = _png(_matrix(said, title))
    if said.mistakes:
        files["errors.png"] = _png(_sheet(said, said.mistakes, "Most confident errors, and why"))
    if said.examples:
        files["maps.png"] = _png(_sheet(said, said.examples, "Where the model looks, in the first image of a class"))
    return files


def _bars(rows: Sequence[tuple[str, int, int, float]], title: str) -> Figure:
    worst = sorted(rows, key=lambda row: (row[3], row[0]))[:MOST_BARS]
    figure = Figure(figsize=(8, 1 + 0.28 * len(worst)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(worst))
    axes.barh(places, [share for *_, share in worst], color=COLORS[0])
    axes.set_yticks(places, [_short(name) for name, *_ in worst])
    axes.set_ylim(len(worst) - 0.4, -0.6)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    for place, (_, of, _, share) in zip(places, worst, strict=True):
        axes.text(share + 0.01, place, f"{share:.1%} of {of:,}", va="center", fontsize=9)
    cut = f", the {len(worst)} worst of {len(rows):,}" if len(worst) < len(rows) else ""
    axes.set_title(f"Accuracy of each class{cut}\n{title}", fontsize=10)
    return figure


def _matrix(said: Examination, title: str) -> Figure:
    counts = confusion(said)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = min(14.0, 3.5 + 0.4 * len(counts))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(shares, cmap=_SHARES, vmin=0, vmax=1)
    figure.colorbar(drawn, label="share of the class", shrink=0.8)
    places, names = range(len(counts)), [_short(name) for name in said.classes]
    size = max(4, min(9, 400 // len(counts)))
    axes.set_xticks(places, names, rotation=90, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if len(counts) <= MOST_NUMBERED:
        for row, column in np.argwhere(counts).tolist():
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    axes.set_title(f"Confusion matrix\n{title}", fontsize=10)
    return figure


def _sheet(said: Examination, shown: Sequence[Seen], title: str) -> Figure:
    """Pictures with their maps beside them, on one canvas: axes for each would take Matplotlib seconds."""
    columns = min(_COLUMNS, len(shown))
    across, down = 2 * (_SIDE + _GAP), _SIDE + _TEXT
    width, height = max(columns, 2) * across + _GAP, _TEXT + math.ceil(len(shown) / columns) * down + _GAP
    canvas = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)

    def write(left: float, top: float, text: str, size: int) -> None:
        figure.text(left / width, 1 - top / height, text, fontsize=size, va="bottom")

    write(_GAP, _TEXT - _GAP, title, 10)
    for number, one in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = _GAP + column * across, _TEXT + row * down + _TEXT
        was, taken = (_short(said.classes[place]) for place in (one.target, one.predicted))
        mistaken = "" if one.target == one.predicted else f", taken for {taken}"
        write(left, top - _GAP / 3, f"{was}{mistaken}: {one.probability:.1%}", 8)
        picture = Image.fromarray(one.image)
        canvas.paste(picture.resize((_SIDE, _SIDE), _resampling(picture)), (left, top))
        beside = left + _SIDE + _GAP // 2
        if one.map is None:
            write(beside, top + _SIDE / 2, "the same everywhere", 8)
        else:
            laid = overlay(picture, one.map)
            canvas.paste(laid.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (beside, top))
    figure.figimage(np.asarray(canvas))
    return figure


def _resampling(picture: Image.Image) -> Image.Resampling:
    """Pixels that are enlarged stay visible as such."""
    return Image.Resampling.NEAREST if picture.width < _SIDE else Image.Resampling.BICUBIC


def _png(figure: Figure) -> bytes:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may have dollars in it
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
