"""What was logged of every epoch, of many trials at once: a request per metric and hundred trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..training import metrics
from .records import TrialRecord
from .runs import Tracker
from .server import patiently

# The server's limits per request: of runs, and of points of each; of longer curves it takes some, evenly.
_MOST_RUNS, _MOST_POINTS = 100, 2500
# MLflow's client has no call for this; its web page asks it for every chart.
_ENDPOINT = "/api/2.0/mlflow/metrics/get-history-bulk-interval"


@dataclass(frozen=True)
class EpochPoint:
    """One finished epoch of a trial. What was not logged is None.

    Attributes:
        epoch: counted from 1.
        ended: when it was evaluated, in seconds since 1970.
        top1: of the validation images, a fraction.
        loss: of training, the epoch's mean.
        workers: ranks that trained it.
        worker_at: when its worker of rank 0 had begun, in seconds since 1970; another than before after a restart.
        corrupt: samples that were replaced or left out.
        receipt: a hash of the consumed samples.
        gradients: the norm of the loss's gradient at the epoch's first step, by part of the network from the images to
            the classes; empty where that was not asked for.
    """

    epoch: int
    ended: float
    top1: float | None = None
    loss: float | None = None
    workers: int | None = None
    worker_at: float | None = None
    corrupt: int = 0
    receipt: int | None = None
    gradients: Mapping[str, float] = field(default_factory=dict)


def read_histories(tracker: Tracker, records: Sequence[TrialRecord]) -> dict[str, list[EpochPoint]]:
    """The finished epochs of trials, by their runs' ids, in order; a trial without any has an empty list.

    Raises:
        EngineError: the server cannot be reached or refuses.
    """
    begun = [record.run_id for record in records if record.epochs_done]
    names = (metrics.TOP1, metrics.EPOCH_LOSS, metrics.WORKERS, metrics.WORKER_AT, metrics.CORRUPT)
    curves = {name: _curves(tracker, begun, name) for name in (*names, metrics.RECEIPT_HIGH, metrics.RECEIPT_LOW)}
    # Each of these is of the networks alone that have so many parts.
    with_gradients: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for name in record.gradient_metrics if record.epochs_done else ():
            with_gradients[name].append(record.run_id)
    curves |= {name: _curves(tracker, run_ids, name) for name, run_ids in sorted(with_gradients.items())}
    return {
        record.run_id: _points({name: found.get(record.run_id, {}) for name, found in curves.items()})
        for record in records
    }


_Curve = Mapping[int, tuple[float, float]]  # by epoch: value, and when it was logged


def _points(curves: Mapping[str, _Curve]) -> list[EpochPoint]:
    def of(name: str, epoch: int) -> float | None:
        found = curves[name].get(epoch)
        return None if found is None else found[0]

    points = []
    for epoch, (top1, logged) in sorted(curves[metrics.TOP1].items()):
        workers, high, low = (of(name, epoch) for name in (metrics.WORKERS, metrics.RECEIPT_HIGH, metrics.RECEIPT_LOW))
        points.append(
            EpochPoint(
                epoch=epoch,
                ended=logged,
                top1=top1,
                loss=of(metrics.EPOCH_LOSS, epoch),
                workers=None if workers is None else int(workers),
                worker_at=of(metrics.WORKER_AT, epoch),
                corrupt=int(of(metrics.CORRUPT, epoch) or 0),
                receipt=None if high is None or low is None else int(high) << 32 | int(low),
                gradients={
                    part: norm
                    for name in curves
                    if (part := metrics.gradient_part(name)) and (norm := of(name, epoch)) is not None
                },
            )
        )
    return points


def _curves(tracker: Tracker, run_ids: Sequence[str], metric: str) -> Mapping[str, _Curve]:
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for start in range(0, len(run_ids), _MOST_RUNS):
        part = run_ids[start : start + _MOST_RUNS]
        query = [*(("run_ids", run_id) for run_id in part), ("metric_key", metric), ("max_results", str(_MOST_POINTS))]
        points = patiently(tracker.uri, partial(_ask, tracker.uri, query), tracker.patience_s)
        for point in points:
            # A default of the answer's format, such as step 0, may be left out; a value that is no number is a word.
            value, at = float(point.get("value", 0.0)), int(point.get("timestamp", 0)) / 1000
            found[point["run_id"]][int(point.get("step", 0))] = (value, at)
    return found


def _ask(uri: str, query: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    answer = http_request(get_default_host_creds(uri), _ENDPOINT, "GET", params=query)
    found: list[dict[str, Any]] = verify_rest_response(answer, _ENDPOINT).json().get("metrics", [])
    return found
