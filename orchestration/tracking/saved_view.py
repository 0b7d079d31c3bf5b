"""A view of MLflow's runs page that shows what a sweep is about, saved with the experiment for all who open it.

MLflow does not promise the form in which its web page saves views; it is written in this file alone, and a test opens
the page of the installed release.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from ..training.metrics import BEST_TOP1
from . import tags
from .runs import Tracker

NAME = "Trials by top-1"
"""Under which the page lists the view."""
_KEY = "trials"
_TAG = f"mlflow.sharedViewState.{_KEY}"
_SORTED_BY = f"metrics.`{BEST_TOP1}`"
_SECTION = "effnet-accuracy"


def save_view(tracker: Tracker, swept: Sequence[str] = ()) -> None:
    """Save the view with an experiment. One that is there stays, for somebody may have changed it on the page.

    Args:
        tracker: of the experiment.
        swept: fields of the recipe that get a column of their own.

    Raises:
        EngineError, UserError: see `Tracker`.
    """
    if _TAG not in tracker.experiment_tags():
        tracker.client.set_experiment_tag(tracker.experiment_id, _TAG, _saved(swept))


def table_url(tracker: Tracker) -> str:
    """Where the trials are listed, the best first. Raises what `save_view` does."""
    return f"{tracker.uri.rstrip('/')}/#/experiments/{tracker.experiment_id}/runs?viewStateShareKey={_KEY}"


def chart_url(tracker: Tracker) -> str:
    """Where their top-1 is drawn against their multiply-adds, above their curves. Raises what `save_view` does."""
    return f"{table_url(tracker)}&compareRunsMode=CHART"


def _saved(swept: Sequence[str]) -> str:
    now = round(time.time() * 1000)
    return json.dumps({"name": NAME, "createdAt": now, "updatedAt": now, "state": json.dumps(_state(swept))})


def _state(swept: Sequence[str]) -> dict[str, Any]:
    # By another order than that of time, the page lists trials beside their sweep instead of folding them below it.
    columns = {
        "tags.`variant`": 120,
        "tags.`activation`": 90,
        "params.`seed`": 60,
        **{f"params.`{name}`": 90 for name in swept},
        _SORTED_BY: 110,
        "params.`params`": 90,
        "params.`macs`": 90,
        f"tags.`{tags.OUTCOME}`": 90,
    }
    scatter = {
        "uuid": "effnet-top1-macs",
        "type": "SCATTER",
        "xaxis": {"key": "macs", "type": "PARAM"},
        "yaxis": {"key": BEST_TOP1, "type": "METRIC"},
        "metricSectionId": _SECTION,
    }
    return {
        "orderByKey": _SORTED_BY,
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [scatter],
        # Charts of all other metrics follow, as the page makes them.
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Accuracy", "display": True, "columns": 1, "cardHeight": 480}
        ],
        "isAccordionReordered": True,  # else sections are sorted by name
    }
