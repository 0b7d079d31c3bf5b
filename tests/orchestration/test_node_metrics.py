"""System metrics of a node, read with MLflow's readers and sent to a real server."""

from __future__ import annotations

import socket
import threading
import time

import psutil
import pytest

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking import node_metrics
from effnet_cluster.orchestration.tracking.node_metrics import SWITCH, NodeMetrics
from effnet_cluster.orchestration.tracking.runs import Tracker

from .conftest import ensure_sweep, job_of

OURS = f"system/{socket.gethostname()}/"


@pytest.fixture
def logger(tracker: Tracker, digits: Manifest, monkeypatch: pytest.MonkeyPatch) -> NodeMetrics:
    monkeypatch.setattr(node_metrics, "_EVERY_S", 0.2)
    monkeypatch.setattr(node_metrics, "_LAST_S", 20.0)
    monkeypatch.delenv(SWITCH, raising=False)
    plan = make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0"}), digits)
    run = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    return NodeMetrics(tracker.uri, tracker.experiment, tracker.uid, run)


def steps(tracker: Tracker, logger: NodeMetrics) -> list[int]:
    return [point.step for point in tracker.history(logger.run_id, f"{OURS}cpu_utilization_percentage")]


def test_a_node_is_logged_by_one_process_and_a_second_worker_goes_on_behind_it(
    tracker: Tracker, logger: NodeMetrics
) -> None:
    with logger.logged(), logger.logged():  # as two ranks on a node do
        names = [thread.name for thread in threading.enumerate()]
        time.sleep(1.5)
    assert names.count("node-metrics") == 1
    first = steps(tracker, logger)
    assert len(first) >= 2
    time.sleep(1.0)
    with logger.logged():
        pass
    both = steps(tracker, logger)
    assert both[: len(first)] == first
    assert len(both) == len(first) + 1 == len(set(both))
    values = tracker.client.get_run(logger.run_id).data.metrics
    assert 0 <= values[f"{OURS}cpu_utilization_percentage"] <= 100
    used = psutil.virtual_memory().used / 1e6
    assert values[f"{OURS}system_memory_usage_megabytes"] == pytest.approx(used, rel=0.5)
    read = {name.removeprefix(OURS) for name in values if name.startswith(OURS)}
    assert {"disk_usage_percentage", "network_receive_megabytes"} <= read


def test_it_is_off_where_mlflows_variable_says_so(
    tracker: Tracker, logger: NodeMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "false")
    with logger.logged():
        pass
    assert steps(tracker, logger) == []


def test_a_server_that_is_away_keeps_nobody_from_training(logger: NodeMetrics) -> None:
    away = NodeMetrics("http://127.0.0.1:9", logger.experiment, logger.uid, logger.run_id)
    with away.logged():
        time.sleep(0.5)
    with pytest.raises(ValueError, match="the training's own"), away.logged():
        raise ValueError("the training's own")
