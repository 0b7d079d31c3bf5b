"""The report as a file: it asks for nothing, and whatever the user wrote is text in it."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from effnet_cluster.orchestration.report.contents import Reported
from effnet_cluster.orchestration.report.page import write_page
from effnet_cluster.orchestration.report.parts import Code, Facts, Figure, Gallery, Numbers, Picture, Section, label
from effnet_cluster.orchestration.report.report import write_report
from effnet_cluster.orchestration.tracking.records import Outcome

from .reports import points, record, reported, sweep

HOSTILE = (
    '</script><script>alert(1)</script><!-- <b>x</b> <a href="http://evil.example">y</a> &lt; " \' \u2028 %{x} $x$'
)
# What loads something: elements by their attribute.
LOADING = {"src", "href", "srcset", "data", "action", "poster", "formaction", "background", "xlink:href"}


class Reader(HTMLParser):
    """Elements with their attributes, the texts outside of scripts and styles, and each script's text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.comments: list[str] = []
        self._within = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._within, self.texts).append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def embedded(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def hostile() -> Reported:
    """An experiment in which everything that the user can name is hostile."""
    trials = [
        record(f"t{seed}{HOSTILE}", seed, 0.5 + seed / 100, activation=name, swept={"policy": f"{HOSTILE}{seed % 2}"})
        for name in ("silu", HOSTILE)
        for seed in range(4)
    ]
    trials.append(record("failed", outcome=Outcome.FAILED, reason=HOSTILE, epochs_done=0, began=1.0, ended=2.0))
    histories = {one.run_id: points(0.5, 0.75) for one in trials}
    values = {HOSTILE: HOSTILE}
    return reported(
        trials,
        HOSTILE,
        histories=histories,
        asked=values,
        data=values,
        hardware=values,
        data_name=HOSTILE,
        settings=values,
        spec_yaml=HOSTILE,
        made_with=values,
    )


def test_nothing_but_the_file_is_asked_for() -> None:
    page = Reader(write_report([sweep("flowers", "a" * 64, swept=2)]))
    asked = [(tag, name, value) for tag, attrs in page.elements for name, value in attrs.items() if name in LOADING]
    assert asked
    for tag, name, value in asked:
        assert value is not None
        assert value.startswith(("#", "data:")), (tag, name, value)
    embedded, bundle, own = page.scripts
    assert bundle == get_plotlyjs().replace("</script", "<\\/script")
    for text in (embedded, own, *page.styles):
        assert not re.search(r"https?:|//\w+\.|url\(|@import|\bfetch\(|XMLHttpRequest|import\(|sendBeacon", text)
    (policy,) = [attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_library_cannot_end_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "end = '</script><b>'")
    page = Reader(write_page("t", "", []))
    assert page.scripts[1] == "end = '<\\/script><b>'"
    assert len(page.scripts) == 3


def test_what_the_user_wrote_is_text_everywhere() -> None:
    content = write_report([hostile()])
    page = Reader(content)
    assert len(page.scripts) == 3  # none was ended or begun by a name
    assert page.comments == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"b", "iframe", "object", "img"}
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert [
        attrs["href"] for tag, attrs in page.elements if tag == "a" and not (attrs["href"] or "").startswith("#")
    ] == []
    shown = "".join(page.texts)
    assert shown.count(HOSTILE) > 20
    assert "\u2028" not in page.scripts[0]
    assert not re.search("[<>&]", page.scripts[0])


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_figures_get_no_markup_from_names() -> None:
    """Plotly reads tags in every text; ours are line breaks alone. It decodes entities after that, once."""
    found = Reader(write_report([hostile()])).embedded
    drawn = [text for part in found.values() for text in strings([part.get("data"), part.get("layout")])]
    assert any("&lt;/script&gt;" in text for text in drawn)
    for text in drawn:
        assert set(re.findall("<[^<>]*>", text)) <= {"<br>", "<extra></extra>", "<extra>", "</extra>"}, text
    templates = [
        text for part in found.values() for trace in part.get("data", ()) for text in [trace.get("hovertemplate")]
    ]
    assert {text for text in templates if text} == {
        "%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
        "%{x}, %{y}<br>%{text}<extra></extra>",
    }
    assert label("a<b>&amp;") == "a&lt;b&gt;&amp;amp;"
    assert label("x" * 100) == "x" * 59 + "…"


def test_sections_are_there_only_where_there_is_something_to_say() -> None:
    def sections(experiment: Reported) -> list[str]:
        page = Reader(write_report([experiment]))
        return [str(attrs["id"]) for tag, attrs in page.elements if tag == "section"]

    nothing = Reported("new", "not started", [], {}, 4, spec_yaml="name: new\n")
    assert sections(nothing) == ["reproduce"]
    assert sections(reported([record("a", top1=0.5)])) == ["accuracy", "curves", "schedule", "trials", "reproduce"]
    everything = ["asked", "accuracy", "seeds", "activations", "fields", "curves", "schedule", "predictions", "faults"]
    assert sections(sweep("flowers", "a" * 64, swept=2)) == [*everything, "trials", "reproduce"]


def test_the_numbers_of_every_figure_are_in_the_file_as_csv() -> None:
    page = Reader(write_report([sweep("flowers", "a" * 64, swept=2)]))
    plots = [attrs["data-key"] for tag, attrs in page.elements if attrs.get("class") == "plot"]
    buttons = {attrs["data-csv"] for _, attrs in page.elements if "data-csv" in attrs}
    assert len(plots) > 8
    assert set(plots) < buttons == page.embedded.keys()
    assert {attrs["data-svg"] for _, attrs in page.elements if "data-svg" in attrs} == set(plots)
    rows = list(csv.DictReader(io.StringIO(page.embedded["curves-top1-1"]["csv"])))
    experiment = sweep("flowers", "a" * 64, swept=2)
    expected = [
        (one.trial_id, str(point.epoch), str(point.top1))
        for one in experiment.records
        for point in experiment.epochs(one)
    ]
    assert [(row["trial"], row["epoch"], row["top1"]) for row in rows] == expected


def test_csv_has_commas_quotes_and_lines_of_names_in_it() -> None:
    numbers = Numbers(("name", "value"), [('a,"b"\nc', None), ("d", 0.1)])
    assert list(csv.reader(io.StringIO(numbers.to_csv()))) == [["name", "value"], ['a,"b"\nc', ""], ["d", "0.1"]]


def test_the_title_says_how_each_experiment_stands() -> None:
    stopped = replace(record("b", top1=0.5), outcome=Outcome.STOPPED)
    page = Reader(write_report([reported([record("a", top1=0.5), stopped], planned=5)]))
    assert "flowers is completed: 1 completed, 1 stopped, 3 not started. Written 20" in "".join(page.texts)


def test_numbers_that_are_none_are_null_and_letters_that_utf_8_has_not_are_replaced() -> None:
    figure = Figure("f", "\ud800", "", [{"y": [float("nan"), float("inf"), 1 / 3]}], {}, Numbers(("x",), [(1,)]))
    page = Reader(write_page("t", "", [Section("s", "s", [figure])]))
    assert page.embedded["f"]["data"] == [{"y": [None, None, 0.3333333]}]
    assert page.embedded["f"]["csv"] == "x\n1\n"


def test_parts_of_a_page_are_escaped_where_they_stand() -> None:
    picture = Picture(b"\x89PNG", "image/png", HOSTILE)
    parts = [HOSTILE, Facts(HOSTILE, {HOSTILE: HOSTILE}), Code(HOSTILE, HOSTILE), Gallery(HOSTILE, [picture], HOSTILE)]
    page = Reader(write_page(HOSTILE, HOSTILE, [Section("s", HOSTILE, parts)]))
    assert len(page.scripts) == 3
    (image,) = [attrs for tag, attrs in page.elements if tag == "img"]
    assert image["src"] == "data:image/png;base64,iVBORw=="
    assert image["alt"] == HOSTILE
    assert "".join(page.texts).count(HOSTILE) == 14


def test_no_other_thing_is_a_part_of_a_page() -> None:
    with pytest.raises(TypeError, match="no part of a page: int"):
        write_page("t", "", [Section("s", "s", [1])])  # type: ignore[list-item]
