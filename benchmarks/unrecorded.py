"""Our sweep over trials of a benchmark's own, without a tracking server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune

from ..orchestration.plan import Plan
from ..orchestration.request import ExperimentRequest
from ..orchestration.running.nodes import alive_nodes
from ..orchestration.running.sweep import run_sweep
from ..orchestration.search.sources import TrialSource
from ..orchestration.sizing.allocation import share_out


def run_unrecorded(
    plan: Plan, job: str, folder: Path, source: TrialSource, trainable: type[tune.Trainable], **shared: Any
) -> ExperimentRequest:
    """Run a sweep on the Ray that this process is connected to; returns the request, which knows the trials' storages.

    Args:
        plan: of the trials.
        job: names the sweep's folder.
        folder: takes that, and the data's cache.
        source: of the trials.
        trainable: what Tune runs for each; its context has `request`, `shares` and what is `shared`.

    Raises:
        Exception: that of the first trial that failed.
    """
    request = ExperimentRequest(
        uid="u", job=job, plan=plan, tracking_uri="", storage=str(folder / job), cache_root=str(folder / "cache")
    )
    shares = share_out(alive_nodes(), plan.spec.execution, plan.trials)
    context: Any = SimpleNamespace(request=request, shares=shares, **shared)
    unrecorded: Any = SimpleNamespace(trials=list, wait_until_left=lambda *_: None)
    failed = run_sweep(context, unrecorded, source, trainable)
    if failed:
        raise next(iter(failed.values()))
    return request
