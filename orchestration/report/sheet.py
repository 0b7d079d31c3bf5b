"""A sheet of photographs, each with the classes that a model sees in it as bars, and where it looks beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MOST = 60
"""Photographs on one sheet; more could not be told apart."""
# Inches: of a cell's height, of a square picture in it, and of its bars. Pictures are shrunk to what is shown of them.
_HEIGHT, _SIDE, _BARS, _DPI = 2.4, 2.0, 4.0, 150
_ONE_COLUMN = 4  # up to so many photographs stand below each other
# Characters of a name, and classes, that are shown.
_NAME, _CLASSES = 28, 8
# Two colours of Okabe and Ito's palette, which the colour-blind can tell apart and which differ in grey.
_BEST, _OTHER = "#0072B2", "#E69F00"


@dataclass(frozen=True)
class Seen:
    """One photograph of a sheet.

    Attributes:
        name: its title.
        photo: what the model was shown of it.
        ranked: (class, probability), best first.
        overlay: its class activation map; None where there is none.
        explains: the class that the map explains.
    """

    name: str
    photo: Image.Image
    ranked: Sequence[tuple[str, float]]
    overlay: Image.Image | None = None
    explains: str | None = None


def shrunk(picture: Image.Image) -> Image.Image:
    """A copy of a picture that is no larger than a sheet shows it."""
    small = picture.copy()
    small.thumbnail((round(_SIDE * _DPI), round(_SIDE * _DPI)))
    return small


def require_format(path: Path) -> None:
    """Refuse a file whose ending Matplotlib cannot write, with a `UserError`."""
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in kinds:
        raise UserError(f"{path}: no picture ends in '{path.suffix}'; use one of {', '.join(sorted(kinds))}")


def write_sheet(seen: Sequence[Seen], path: Path) -> None:
    """Write a sheet in the format that the path's ending names: png, pdf, svg, jpg, …

    Args:
        seen: 1 to `MOST` photographs.
        path: the file to write or replace.

    Raises:
        UserError: see `require_format`, or the file cannot be written.
    """
    require_format(path)
    columns = 1 if len(seen) <= _ONE_COLUMN else 2
    rows = math.ceil(len(seen) / columns)
    pictures = 2 if any(one.explains is not None for one in seen) else 1
    widths = [*[_SIDE] * pictures, _BARS] * columns
    figure = Figure(figsize=(sum(widths), rows * _HEIGHT), dpi=_DPI, layout="constrained")
    places = figure.add_gridspec(rows, len(widths), width_ratios=widths)  # one grid, so that columns stand in line
    most = min(_CLASSES, max(len(one.ranked) for one in seen))
    for number, one in enumerate(seen):
        row, column = divmod(number, columns)
        first = column * (pictures + 1)
        _draw([figure.add_subplot(places[row, first + part]) for part in range(pictures + 1)], one, most)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may have dollars in it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _draw(places: Sequence[Axes], one: Seen, most: int) -> None:
    """Draw one photograph in its places: itself, its map if there is a place for it, and its bars, `most` at most."""
    photo, *explained, bars = places
    photo.imshow(one.photo)
    photo.set_title(_short(one.name), fontsize=8)
    photo.set_axis_off()
    for place in explained:
        place.set_axis_off()
        if one.overlay is not None:
            place.imshow(one.overlay)
            place.set_title(f"where: {_short(one.explains or '')}", fontsize=8)
        else:
            place.text(0.5, 0.5, "the same\neverywhere", ha="center", va="center", fontsize=8)
    ranked = one.ranked[:_CLASSES]
    names, shares = [_short(name) for name, _ in ranked], [share for _, share in ranked]
    ranks = range(len(names))
    bars.barh(ranks, shares, color=[_BEST, *[_OTHER] * (len(names) - 1)])
    bars.set_yticks(ranks, names, fontsize=8)
    bars.set_ylim(most - 0.4, -0.6)  # the best on top, all bars as thick
    bars.set_xlim(0, 1.18)  # room for the number beside a full bar
    bars.set_xticks([])
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    for at, share in zip(ranks, shares, strict=True):
        bars.text(share + 0.01, at, f"{share:.1%}", va="center", fontsize=8)


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
