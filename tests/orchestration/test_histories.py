"""Epochs of many trials, read from a real MLflow server."""

from __future__ import annotations

import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import EngineError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking import histories
from effnet_cluster.orchestration.tracking.histories import EpochPoint, read_histories
from effnet_cluster.orchestration.tracking.metric_log import MetricLog, MetricPoints
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.training import metrics

from .conftest import ensure_sweep, job_of


@pytest.fixture(scope="module")
def plan(digits: Manifest) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", "seeds": [0, 1, 2]}), digits)


def log(tracker: Tracker, run_id: str, epoch: int, at: int, **values: float) -> None:
    named = {getattr(metrics, name.upper()): value for name, value in values.items()}
    MetricLog(tracker, run_id).log([MetricPoints(at * 1000, [(epoch, {metrics.EPOCH: float(epoch)} | named)])])


def test_epochs_are_read_as_they_were_logged(tracker: Tracker, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ensure_sweep(tracker, plan)
    first, second, third = (tracker.ensure_trial(job_of(plan, number), sweep) for number in range(3))
    receipt = {"receipt_high": float(2**32 - 1), "receipt_low": 7.0}
    log(tracker, first, 1, 1_800_000_000, top1=0.0, epoch_loss=2.5, workers=2, worker_at=1_799_999_990.5, **receipt)
    log(tracker, first, 2, 1_800_000_030, top1=0.75, epoch_loss=1.5, workers=1, corrupt=3)
    log(tracker, second, 1, 1_800_000_040, top1=0.25)
    expected = {
        first: [
            EpochPoint(1, 1_800_000_000.0, 0.0, 2.5, 2, 1_799_999_990.5, 0, 0xFFFFFFFF00000007),
            EpochPoint(2, 1_800_000_030.0, 0.75, 1.5, 1, None, 3, None),
        ],
        second: [EpochPoint(1, 1_800_000_040.0, 0.25)],
        third: [],
    }
    assert read_histories(tracker, tracker.trials()) == expected
    monkeypatch.setattr(histories, "_MOST_RUNS", 1)  # more trials than a request takes
    assert read_histories(tracker, tracker.trials()) == expected


def test_gradients_are_read_by_part_in_the_networks_order(tracker: Tracker, plan: Plan) -> None:
    sweep = ensure_sweep(tracker, plan)
    first, second = (tracker.ensure_trial(job_of(plan, number), sweep) for number in range(2))
    norms = {metrics.gradient_metric(2, "classifier"): 3.0, metrics.gradient_metric(0, "stem"): 0.5}
    points = [(epoch, {metrics.EPOCH: epoch, metrics.TOP1: 0.5} | (norms if epoch == 1 else {})) for epoch in (1, 2)]
    MetricLog(tracker, first).log([MetricPoints(1_800_000_000_000, points)])
    log(tracker, second, 1, 1_800_000_000, top1=0.25)
    found = read_histories(tracker, tracker.trials())
    assert [list(point.gradients.items()) for point in found[first]] == [[("stem", 0.5), ("classifier", 3.0)], []]
    assert [point.gradients for point in found[second]] == [{}]


def test_what_cannot_be_read_is_one_line(tracker: Tracker, plan: Plan) -> None:
    log(tracker, tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan)), 1, 1_800_000_000, top1=0.5)
    records = tracker.trials()
    away = Tracker("http://127.0.0.1:9", tracker.experiment, tracker.uid, patience_s=0)
    with pytest.raises(EngineError, match=r"^MLflow server http://127\.0\.0\.1:9: ") as caught:
        read_histories(away, records)
    assert "\n" not in str(caught.value)
    assert read_histories(away, []) == {}
