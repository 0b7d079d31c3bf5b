"""The report as a user sees it, in headless Chromium: no request leaves the file, and every figure is drawn."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from effnet_cluster.orchestration.report.report import write_report

from ..orchestration.reports import sweep
from ..orchestration.test_report_page import HOSTILE, hostile
from .test_browser import CHROMIUM, pytestmark  # noqa: F401

_NAMED = "text.legendtext, .ytick text, .xtick text, .annotation-text, .hovertext text"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """A page with everything drawn, and what it asked for or complained about."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, accept_downloads=True, **options)
    problems: list[str] = []
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith("blob:") else None)
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn !== undefined", timeout=60_000)
    asked = [text for text in problems if text not in (path.as_uri(), "data:,")]
    problems.clear()
    return page, asked


def save(page: Page, selector: str) -> tuple[str, str]:
    with page.expect_download() as download:
        page.locator(selector).click()
    return download.value.suggested_filename, Path(download.value.path()).read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_asks_for_nothing_and_draws_every_figure(browser: Browser, tmp_path: Path, scheme: Any) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(write_report([sweep("digits", "a" * 64, swept=2), sweep("flowers", "b" * 64)]))
    page, asked = opened(browser, path, color_scheme=scheme)
    assert asked == []
    plots = page.locator(".plot")
    assert plots.count() > 15
    assert page.locator(".plot .main-svg").count() >= plots.count()
    # Nothing that sends a figure away, which is one of Plotly's buttons by default.
    titles = {str(one.get_attribute("data-title")) for one in page.locator(".modebar-btn").all()}
    assert titles == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
    colors = {page.locator(what).first.evaluate("e => getComputedStyle(e).fill") for what in (".xtick text",)}
    assert colors == {"rgb(26, 26, 26)" if scheme == "light" else "rgb(232, 232, 232)"}
    page.close()


@pytest.mark.parametrize("width", [1400, 800])
def test_nothing_is_wider_than_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(write_report([sweep("digits", "a" * 64, swept=2)]))
    page, _ = opened(browser, path)
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].map((e) => e.getBoundingClientRect().right)"
    ):
        assert box <= width
    page.close()


def test_figures_are_saved_as_svg_and_their_numbers_as_csv(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    experiment = sweep("digits", "a" * 64)
    path.write_bytes(write_report([experiment]))
    page, _ = opened(browser, path, color_scheme="dark")
    name, text = save(page, '[data-csv="curves-top1-1"]')
    assert name == "curves-top1-1.csv"
    found = [(row["trial"], int(row["epoch"]), float(row["top1"])) for row in csv.DictReader(text.splitlines())]
    assert found == [
        (one.trial_id, point.epoch, point.top1) for one in experiment.records for point in experiment.epochs(one)
    ]
    name, text = save(page, '[data-svg="curves-top1-1"]')
    assert name == "curves-top1-1.svg"
    assert text.startswith("<svg")
    assert "validation top-1" in text
    assert "rgb(26, 26, 26)" in text  # as on a light page
    assert save(page, '#figure-curves-top1-1 .modebar-btn[data-title^="Download"]')[1].startswith("<svg")
    page.close()


def test_hostile_names_are_shown_as_they_are(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(write_report([hostile()]))
    page, asked = opened(browser, path)
    assert asked == []
    assert page.locator("main a, main b, svg a, svg [style*='bold'], iframe").count() == 0
    texts = page.locator(_NAMED).all_text_contents()
    shown = re.sub(r"\s", " ", HOSTILE)[:40]  # Plotly makes spaces of line ends
    assert sum(shown in re.sub(r"\s", " ", text) for text in texts) > 3
    page.close()


def test_a_thousand_trials_are_written_and_drawn(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(write_report([sweep("large", "a" * 64, seeds=5, epochs=100, swept=34)]))
    assert path.stat().st_size < 15e6
    page, asked = opened(browser, path)
    assert asked == []
    page.close()
