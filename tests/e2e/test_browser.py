"""The two web pages as a user sees them, in headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page, expect, sync_playwright

from .conftest import DEMO, Cli

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    # On CI a missing browser must be a failure, not a skipped promise.
    pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"),
]
_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@contextmanager
def opened_page(width: int) -> Iterator[Page]:
    """A page of a browser that asks its maker for nothing, so many pixels wide."""
    assert CHROMIUM, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_QUIET, "--disable-sync"])
        yield browser.new_page(viewport={"width": width, "height": 1000})
        browser.close()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened_page(1600) as page:
        yield page


def test_mlflow_lists_the_trials_and_draws_them_where_submit_says(
    cli: Cli, demo: subprocess.CompletedProcess[str], page: Page
) -> None:
    """The addresses are those that `submit` printed at its end; test_saved_view.py looks at what is where."""
    table, chart = (word for word in demo.stderr.split()[-20:] if "/#/experiments/" in word)
    page.goto(table)
    body = page.locator("body")
    for text in (*cli.trial_runs(DEMO), "leaky_relu", "completed", "Sort: val/best_top1"):
        expect(body).to_contain_text(text, timeout=60_000)
    page.goto("about:blank")
    page.goto(chart)
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=60_000)
    expect(body).to_contain_text("macs vs. val/best_top1")


def test_the_dashboard_wants_the_token_and_then_lists_the_job(
    cli: Cli, demo: subprocess.CompletedProcess[str], page: Page
) -> None:
    dashboard = cli.services()["ray"]["url"]
    assert requests.get(f"{dashboard}/api/jobs/", timeout=10).status_code == 401
    page.goto(f"{dashboard}/#/jobs")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").read_text().strip()
    page.get_by_placeholder("Enter your authentication token").fill(token)
    page.get_by_role("button", name="Submit").click()
    row = page.locator("tr", has_text="effnet_cluster.orchestration.driver").filter(has_text=DEMO)
    expect(row.first).to_contain_text("SUCCEEDED", timeout=60_000)
    cells = [cell.strip() for cell in row.first.locator("td").all_inner_texts()]
    assert cells.count(DEMO) == 2, "name and submission id are the experiment's name"
