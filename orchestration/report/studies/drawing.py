"""Figures of means with their intervals, in marks and lines that the colour-blind and a grey print tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..parts import COLORS, DASHES, SYMBOLS, Figure, Numbers, label
from ..significance import Spread

PRINTED = 350
# Of the distance of neighbours: how wide the series at one place stand, so that their bars do not hide each other.
_BESIDE = 0.5
# Entries of a legend.
_MOST_ENTRIES = 24


def series(
    name: str,
    number: int,
    x: Sequence[Any],
    spreads: Sequence[Spread],
    texts: Sequence[str],
    lines: bool = True,
    dash: int | None = None,
) -> dict[str, Any]:
    """Means as marks with their 95 % intervals as bars, in the style of this number.

    Args:
        name: in the legend.
        number: of the style: colour, symbol and dash.
        x: where they stand.
        spreads: theirs.
        texts: what each is, shown on hovering.
        lines: whether marks are joined.
        dash: of the line, if it is not that of the style.
    """
    color = COLORS[number % len(COLORS)]
    return {
        "type": "scatter",
        "mode": "lines+markers" if lines else "markers",
        "name": label(name),
        "x": list(x),
        "y": [one.mean for one in spreads],
        "error_y": bars(spreads, color),
        "text": [f"{label(text)}<br>{label(told(one))}" for text, one in zip(texts, spreads, strict=True)],
        "hoverinfo": "text",
        "line": {"color": color, "dash": DASHES[(number if dash is None else dash) % len(DASHES)], "width": 1.6},
        "marker": {"color": color, "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9},
    }


def bars(spreads: Sequence[Spread], color: str) -> dict[str, Any]:
    """Intervals as bars about the means; none of one seed."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [0.0 if one.high is None else one.high - one.mean for one in spreads],
        "arrayminus": [0.0 if one.low is None else one.mean - one.low for one in spreads],
        "color": color,
        "thickness": 1.3,
        "width": 4,
    }


def told(one: Spread) -> str:
    """A mean with its interval and its number of seeds."""
    within = "" if one.low is None else f" ({one.low:.4g} to {one.high:.4g})"
    return f"{one.mean:.4g}{within}, n {one.n}"


def beside(number: int, of: int, step: float) -> float:
    """How far the series of this number is shifted, so that all stand side by side about their place."""
    return step * _BESIDE * ((number + 0.5) / of - 0.5)


def over_parts(
    key: str,
    title: str,
    caption: str,
    found: Mapping[str, Mapping[str, Spread]],
    styles: Mapping[str, tuple[int, int]] | None = None,
) -> Figure | None:
    """Norms of the gradient by part of the network, a line per series; None where none was logged.

    Args:
        key, title, caption: of the figure.
        found: of each series, the norms by part.
        styles: of each series, the style's number and its dash, where they are not those of its place.
    """
    parts = list(dict.fromkeys(part for norms in found.values() for part in norms))
    if not parts:
        return None
    shown = {name: norms for name, norms in found.items() if norms}
    styles = styles or {name: (number, number) for number, name in enumerate(shown)}
    traces = [
        series(
            name,
            styles[name][0],
            [parts.index(part) + beside(number, len(shown), 1.0) for part in norms],
            list(norms.values()),
            [f"{name}, {part}" for part in norms],
            dash=styles[name][1],
        )
        for number, (name, norms) in enumerate(shown.items())
    ]
    return Figure(
        key=key,
        title=title,
        caption=f"{caption} From the images, at the left, to the classes.",
        data=traces,
        layout={
            "xaxis": {"tickvals": [*range(len(parts))], "ticktext": [label(part) for part in parts], "showgrid": False},
            "yaxis": log_y("norm of the gradient"),
            "showlegend": len(traces) <= _MOST_ENTRIES,
        },
        numbers=Numbers(
            ("series", "part", "n", "mean", "sd", "low", "high"),
            _rows(shown),
        ),
        height=480,
        printed=PRINTED,
    )


def over_epochs(key: str, title: str, caption: str, found: Mapping[str, Mapping[int, Spread]]) -> Figure | None:
    """The first part's norm over the last part's, epoch by epoch; None where no series has two epochs."""
    shown = {name: ratios for name, ratios in found.items() if ratios}
    if not any(len(ratios) > 1 for ratios in shown.values()):
        return None
    traces = []
    for number, (name, ratios) in enumerate(shown.items()):
        texts = [f"{name}, epoch {epoch}" for epoch in ratios]
        trace = series(name, number, list(ratios), list(ratios.values()), texts)
        del trace["error_y"]  # of many lines and epochs they would hide the lines; the CSV has them
        trace["marker"]["size"] = 6
        traces.append(trace)
    return Figure(
        key=key,
        title=title,
        caption=caption,
        data=traces,
        layout={
            "xaxis": {"title": {"text": "epoch"}},
            "yaxis": log_y("first part's norm ÷ last part's"),
            "showlegend": len(traces) <= _MOST_ENTRIES,
        },
        numbers=Numbers(
            ("series", "epoch", "n", "mean_ratio", "sd", "low", "high"),
            _rows(shown),
        ),
        printed=PRINTED,
    )


def _rows(shown: Mapping[str, Mapping[Any, Spread]]) -> list[tuple[Any, ...]]:
    """Series, place and numbers of each mark."""
    return [(name, place, *one.exact) for name, spreads in shown.items() for place, one in spreads.items()]


def log_y(title: str) -> dict[str, Any]:
    """A logarithmic vertical axis."""
    return {"type": "log", "title": {"text": title}, "exponentformat": "power", "minexponent": 2}


TOP1_AXIS: Mapping[str, Any] = {"title": {"text": "best top-1, mean over seeds"}, "tickformat": ".3~f"}
