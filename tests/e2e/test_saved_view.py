"""The page that `submit` points at, in headless Chromium: what MLflow does not promise about its saved views."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from effnet_cluster.datasets import prepare_digits
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.data_input import log_data
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.saved_view import NAME, chart_url, save_view, table_url
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.metrics import BEST_TOP1

from .test_browser import opened_page, pytestmark  # noqa: F401

COLUMNS = [
    *("tags.`variant`", "tags.`activation`", "params.`seed`", "params.`lr`", "metrics.`val/best_top1`"),
    *("params.`params`", "params.`macs`", "tags.`outcome`"),
]
# Neither the order in which they start nor that of their seeds or their multiply-adds.
TOP1 = {"b1": 0.5, "b0": 0.75, "b2": 0.625}
BEST_FIRST = ("b0", "b2", "b1")
# A row's number on the page, which is not its place in the document, and its cells of some columns.
CELLS = """(rows, columns) => rows.map((row) => [
  Number(row.getAttribute("row-index")),
  columns.map((column) => row.querySelector(`[col-id='${column}']`)?.innerText),
])"""


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
    with opened_page(2400) as page:
        yield page


def test_the_page_lists_the_trials_by_top1_with_the_columns_that_tell_them_apart(tracker: Tracker, page: Page) -> None:
    page.goto(table_url(tracker))
    expect(page.get_by_role("button", name=NAME)).to_be_visible(timeout=60_000)
    rows = page.locator(".ag-center-cols-container [role=row]")
    expect(rows).to_have_count(4, timeout=30_000)
    costs = {record.variant: [str(record.params), str(record.macs)] for record in tracker.trials()}
    trials = [["silu", "0", "0.004", str(TOP1[name]), *costs[name], "completed"] for name in BEST_FIRST]
    expected = [*([name, *cells] for name, cells in zip(BEST_FIRST, trials, strict=True)), [*"-------", "running"]]
    assert [cells for _, cells in sorted(rows.evaluate_all(CELLS, COLUMNS))] == expected
    places = [page.locator(f"[role=columnheader][col-id='{column}']").bounding_box() for column in COLUMNS]
    lefts = [place["x"] for place in places if place]
    assert (len(lefts), lefts) == (len(COLUMNS), sorted(lefts))


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
    chip = page.get_by_role("button", name=f"digits ({record.data_digest[:36]})")
    expect(chip).to_be_visible(timeout=60_000)
