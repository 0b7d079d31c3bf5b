"""A page as one HTML file that asks for nothing else: style, scripts, figures, numbers and pictures are in it.

Whatever the user wrote is text here, never markup: this is the one place where HTML is made.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import singledispatch
from html import escape
from importlib.resources import files
from typing import Any

from .parts import Code, Facts, Figure, Gallery, Part, Section, Table

# The browser itself refuses whatever would leave the file.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "form-action 'none'; base-uri 'none'"
)
# What could end a script, or begin a comment in it.
_UNSAFE = {character: f"\\u{ord(character):04x}" for character in "<>&"}
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_LEGEND: Mapping[str, Any] = {
    "orientation": "h",
    "yref": "container",  # at the figure's bottom, which makes room for it; the buttons are at the top
    "y": 0,
    "yanchor": "bottom",
    "x": 0,
    "itemsizing": "constant",
    "itemwidth": 60,
}
_LAYOUT: Mapping[str, Any] = {
    "font": {"family": _FONT, "size": 13, "color": "#1a1a1a"},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 70, "r": 20, "t": 40, "b": 55},
    "hoverlabel": {"align": "left", "namelength": -1},
    "legend": _LEGEND,
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#7f7f7f", "activecolor": "#0072B2"},
}
_AXIS: Mapping[str, Any] = {
    "gridcolor": "#d9d9d9",
    "linecolor": "#8c8c8c",
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "automargin": True,
}
# Significant digits of a figure's numbers: what no screen could show is left out. Its CSV has them all.
_DIGITS = 7


def write_page(title: str, subtitle: str, sections: Iterable[Section]) -> bytes:
    """The file's content, in UTF-8.

    Args:
        title, subtitle: of the page.
        sections: in their order; those without parts are left out.
    """
    shown = [section for section in sections if section.parts]
    embedded = {key: found for section in shown for part in section.parts for key, found in _embedded(part)}
    links = "".join(f'<li><a href="#{escape(one.key)}">{escape(one.title)}</a></li>' for one in shown)
    body = "\n".join(_section(section) for section in shown)
    html = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_asset("page.css")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main>
{body}
</main>
<noscript><p>The figures need JavaScript, which is in this file.</p></noscript>
<script type="application/json" id="embedded">{_json(embedded)}</script>
<script>{_plotly()}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""
    return html.encode("utf-8", "replace")


def _embedded(part: Part) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the page's script needs of a figure, or of a table with numbers, by its key."""
    if isinstance(part, Figure):
        own = {
            name: _AXIS | value if "axis" in name else _LEGEND | value if name == "legend" else value
            for name, value in part.layout.items()
        }
        layout = {**_LAYOUT, "xaxis": _AXIS, "yaxis": _AXIS, "height": part.height, **own}
        drawn = {"data": part.data, "layout": layout, "printed": part.printed or part.height}
        yield part.key, {"csv": part.numbers.to_csv(), **drawn}
    elif isinstance(part, Table) and part.numbers:
        yield part.key, {"csv": part.numbers.to_csv()}


def _json(value: Any) -> str:
    r"""JSON within a script: ASCII alone, so without U+2028, and with `<`, `>` and `&` as `\u003c` and so on."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return text


def _plain(value: Any) -> Any:
    """JSON-safe; numbers that are none, such as an infinite loss, are null."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _plotly() -> str:
    """Plotly's own bundle, as its package brings it."""
    from plotly.offline import get_plotlyjs

    # In the bundle this is a string of JavaScript, which means the same so.
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _section(section: Section) -> str:
    parts = "\n".join(_html(part) for part in section.parts)
    return f'<section id="{escape(section.key)}"><h2>{escape(section.title)}</h2>\n{parts}\n</section>'


@singledispatch
def _html(part: Any) -> str:
    raise TypeError(f"no part of a page: {type(part).__name__}")


@_html.register
def _paragraph(part: str) -> str:
    return f"<p>{escape(part)}</p>"


@_html.register
def _figure(part: Figure) -> str:
    key = escape(part.key)
    return (
        f'<figure id="figure-{key}"><h3>{escape(part.title)}</h3>'
        f'<div class="plot" data-key="{key}" style="height:{part.height}px" role="img" '
        f'aria-label="{escape(part.title)}"></div>'
        f"<figcaption>{escape(part.caption)}</figcaption>{_downloads(key, svg=True)}</figure>"
    )


@_html.register
def _table(part: Table) -> str:
    head = "".join(f"<th{_left(part, name)}>{escape(name)}</th>" for name in part.columns)
    rows = "\n".join(f"<tr>{''.join(_cells(part, row))}</tr>" for row in part.rows)
    caption = f'<p class="caption">{escape(part.caption)}</p>' if part.caption else ""
    downloads = _downloads(escape(part.key), svg=False) if part.numbers else ""
    title = f"<h3>{escape(part.title)}</h3>" if part.title else ""
    return (
        f'{title}<div class="table"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
        f"{caption}{downloads}"
    )


def _cells(part: Table, row: Sequence[str]) -> Iterable[str]:
    for name, cell in zip(part.columns, row, strict=True):
        yield f"<td{_left(part, name)}>{escape(cell)}</td>"


def _left(part: Table, name: str) -> str:
    return ' class="left"' if name in part.left else ""


def _downloads(key: str, *, svg: bool) -> str:
    picture = f' <button type="button" data-svg="{key}">SVG</button>' if svg else ""
    return f'<p class="downloads"><button type="button" data-csv="{key}">CSV</button>{picture}</p>'


@_html.register
def _facts(part: Facts) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in part.values.items())
    return f'<div class="facts"><h3>{escape(part.title)}</h3><dl>{rows}</dl></div>'


@_html.register
def _code(part: Code) -> str:
    title, text = escape(part.title), f"<pre>{escape(part.text)}</pre>"
    return f"<details><summary>{title}</summary>{text}</details>" if part.folded else f"<h3>{title}</h3>{text}"


@_html.register
def _gallery(part: Gallery) -> str:
    shown = "".join(
        f'<figure><img alt="{escape(picture.caption)}" '
        f'src="data:{escape(picture.kind)};base64,{base64.b64encode(picture.data).decode()}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in part.pictures
    )
    caption = f'<p class="caption">{escape(part.caption)}</p>' if part.caption else ""
    return f'<h3>{escape(part.title)}</h3><div class="gallery">{shown}</div>{caption}'
