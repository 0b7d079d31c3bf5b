"""The report that a running sweep keeps with its MLflow run, on a real server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration import driver
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.request import ExperimentRequest, reported
from effnet_cluster.orchestration.running import report_keeper
from effnet_cluster.orchestration.running.report_keeper import NAME, ReportKeeper
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.tracking.runs import Tracker

from .conftest import ensure_sweep, job_of


@pytest.fixture
def plan(tracker: Tracker, digits: Manifest) -> Plan:
    fields = {"name": tracker.experiment, "variants": "b0", "seeds": [0, 1]}
    return make_plan(ExperimentSpec.parse(fields), digits)


@pytest.fixture
def request_(tracker: Tracker, plan: Plan) -> ExperimentRequest:
    return ExperimentRequest(
        uid=tracker.uid, job="j", plan=plan, tracking_uri=tracker.uri, storage="/nowhere", cache_root="/nowhere"
    )


def kept(tracker: Tracker, sweep_id: str) -> str | None:
    """The report that lies with the sweep's run."""
    client = MlflowClient(tracker.uri)
    if NAME not in [found.path for found in client.list_artifacts(sweep_id)]:
        return None
    return Path(client.download_artifacts(sweep_id, NAME)).read_text()


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_report_is_written_when_a_trial_has_ended_and_not_before(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_keeper, "_LEAST_S", 0.05)
    looks, written = threading.Semaphore(0), []
    ended_trials, write = Tracker.ended_trials, ReportKeeper.write
    monkeypatch.setattr(Tracker, "ended_trials", lambda self, after: looks.release() or ended_trials(self, after))
    monkeypatch.setattr(ReportKeeper, "write", lambda self: written.append(1) or write(self))
    sweep_id = ensure_sweep(tracker, plan)
    with ReportKeeper(request_, sweep_id):
        run_id = tracker.ensure_trial(job_of(plan), sweep_id)
        for _ in range(3):
            assert looks.acquire(timeout=60)
        assert not written
        time.sleep(0.01)  # MLflow's times are whole milliseconds
        tracker.finish(run_id, Outcome.FAILED, "no memory")
        wait_for(lambda: kept(tracker, sweep_id) is not None)
    content = kept(tracker, sweep_id)
    assert content is not None
    assert "no memory" in content
    assert f"{tracker.experiment} is running: 1 failed, 1 not started." in content
    assert len(written) == 1


def test_trials_come_as_they_were_asked_for_and_not_as_they_began(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest
) -> None:
    sweep_id = ensure_sweep(tracker, plan)
    for number in (1, 0):
        tracker.ensure_trial(job_of(plan, number), sweep_id)
        time.sleep(0.01)  # MLflow's times are whole milliseconds
    assert [record.seed for record in tracker.trials()] == [1, 0]
    assert [record.seed for record in reported(request_, tracker).records] == [0, 1]


def test_the_time_that_reports_take_is_bounded(
    request_: ExperimentRequest, plan: Plan, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, pauses = ReportKeeper(request_, "x"), list[float]()
    monkeypatch.setattr(Tracker, "ended_trials", lambda self, after: ["one"])
    monkeypatch.setattr(ReportKeeper, "write", lambda self: time.sleep(0.1))
    monkeypatch.setattr(report_keeper, "_LEAST_S", 0.01)
    monkeypatch.setattr(keeper._over, "wait", lambda pause: pauses.append(pause) or len(pauses) > 2)
    keeper._keep()
    assert pauses[0] == 0.01
    assert pauses[1] >= 0.1 / 0.02
    assert pauses[1] == pytest.approx(5.0, abs=2.0)


def test_a_report_that_cannot_be_written_is_warned_of_and_ends_nothing(
    request_: ExperimentRequest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = request_.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    monkeypatch.setattr(report_keeper, "_LEAST_S", 0.01)
    with caplog.at_level(logging.WARNING), ReportKeeper(away, "x") as keeper:
        keeper.write()
        time.sleep(0.1)  # some looks, which fail too
    (told,) = {found.message for found in caplog.records if found.name == report_keeper.__name__}
    assert told.startswith("the report in MLflow is not up to date: MLflow server http://127.0.0.1:9")


@pytest.mark.parametrize("fails", [False, True])
def test_the_driver_writes_the_last_report_when_it_has_concluded(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    sweep_id = ensure_sweep(tracker, plan)

    def sweep(*_: object) -> dict[str, str]:
        for number in range(2):
            run_id = tracker.ensure_trial(job_of(plan, number), sweep_id)
            tracker.finish(run_id, Outcome.FAILED if number and fails else Outcome.STOPPED, "why")
        return {}

    monkeypatch.setattr(driver, "_sweep", sweep)
    assert driver._run_sweep(request_, tracker, sweep_id) is not fails
    content = kept(tracker, sweep_id)
    assert content is not None
    state = "failed: 1 stopped, 1 failed." if fails else "completed: 2 stopped."
    assert f"{tracker.experiment} is {state}" in content


def test_a_sweep_that_breaks_is_closed_and_its_error_goes_on(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sweep(*_: object) -> dict[str, str]:
        raise RuntimeError("broken")

    sweep_id = ensure_sweep(tracker, plan)
    monkeypatch.setattr(driver, "_sweep", sweep)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        driver._run_sweep(request_, tracker, sweep_id)
    assert tracker.sweep_outcome() is Outcome.FAILED
    wait_for(lambda: threading.active_count() == before)
