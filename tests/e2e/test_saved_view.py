"""The page that `submit` points at, in headless Chromium: what MLflow does not promise about its saved views."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from effnet_cluster.datasets import prepare_digits
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.data_input import log_data
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.saved_view import NAME, chart_url, save_view, table_url
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.metrics import BEST_TOP1

from .test_browser import _QUIET, CHROMIUM, pytestmark  # noqa: F401

# Neither the order in which they start nor that of their seeds or their multiply-adds.
TOP1 = {"b1": 0.5, "b0": 0.75, "b2": 0.625}


@pytest.fixture(scope="module")
def tracker(mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """Of a sweep of three trials and its learning rate."""
    digits = prepare_digits(tmp_path_factory.mktemp("digits") / "shards")
    fields = {"name": "viewed", "variants": list(TOP1), "search": {"sweep": {"lr": "0.004"}}}
    plan = make_plan(ExperimentSpec.parse(fields), digits)
    tracker = Tracker(mlflow_uri, "viewed", "uid-of-viewed")
    tracker.claim()
    save_view(tracker, ["lr"])
    sweep = tracker.ensure_sweep({}, plan.spec.to_yaml(), plan.data_digest)
    for trial in plan.trials:
        found = {"data": plan.spec.data, "data_digest": plan.data_digest, "storage": "/x", "cache_root": "/x"}
        run = tracker.ensure_trial(TrainingJob(trial=trial, execution=plan.spec.execution, **found), sweep)
        log_data(tracker, run, digits.name, plan.spec.data, plan.data_digest, {"classes": 10})
        tracker.client.log_metric(run, BEST_TOP1, TOP1[trial.variant])
        tracker.finish(run, Outcome.COMPLETED)
    return tracker


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    assert CHROMIUM, "no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_QUIET, "--disable-sync"])
        yield browser.new_page(viewport={"width": 2400, "height": 1000})
        browser.close()


def test_the_page_lists_the_trials_by_top1_with_the_columns_that_tell_them_apart(tracker: Tracker, page: Page) -> None:
    page.goto(table_url(tracker))
    expect(page.get_by_role("button", name=NAME)).to_be_visible(timeout=60_000)
    rows = page.locator(".ag-center-cols-container [role=row]")
    expect(rows).to_have_count(4, timeout=30_000)
    expect(page.get_by_text(f"Sort: {BEST_TOP1}")).to_be_visible()
    titles = [title.strip() for title in page.locator(".ag-header-cell-text").all_inner_texts()]
    expected = ["variant", "activation", "seed", "lr", BEST_TOP1, "params", "macs", "outcome"]
    assert [title for title in titles if title in expected] == expected
    cells = [row.locator("[role=gridcell]").all_inner_texts() for row in rows.all()]
    shown = [[cell for cell in row if cell] for row in cells]
    best, second, third, sweep = sorted(shown, key=lambda row: "".join(row).count("-"))[:0] or shown
    assert [best[0], second[0], third[0]] == ["b0", "b2", "b1"]
    records = {record.variant: record for record in tracker.trials()}
    record = records["b0"]
    assert best == ["b0", "silu", "0", "0.004", "0.75", str(record.params), str(record.macs), "completed"]
    assert set(sweep) == {"-"}


def test_the_chart_of_top1_against_multiply_adds_comes_first(tracker: Tracker, page: Page) -> None:
    page.goto("about:blank")  # else only what follows the address's # changes
    page.goto(chart_url(tracker))
    page.locator(".js-plotly-plot").first.wait_for(timeout=60_000)
    drawn = json.loads(
        page.locator(".js-plotly-plot").first.evaluate(
            "e => JSON.stringify(e.data.flatMap(t => [...t.x].map((x, n) => [Number(x), t.y[n]])))"
        )
    )
    expected = [[record.macs, TOP1[record.variant]] for record in tracker.trials()]
    assert sorted(drawn) == sorted(expected)


def test_the_page_names_the_data_of_each_run(tracker: Tracker, page: Page) -> None:
    (record, *_) = tracker.trials()
    page.goto("about:blank")
    page.goto(f"{tracker.uri}/#/experiments/{tracker.experiment_id}/runs/{record.run_id}")
    expect(page.get_by_text(record.data_digest[:36])).to_be_visible(timeout=60_000)
