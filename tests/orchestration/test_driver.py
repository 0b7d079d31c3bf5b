"""How a sweep ends: by what its trials' own runs say, on a real MLflow server."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.driver import _source, conclude
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking import tags
from effnet_cluster.orchestration.tracking.metric_log import MetricLog, MetricPoints
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.stop_requests import StopRequests
from effnet_cluster.orchestration.training import metrics
from effnet_cluster.orchestration.training.job import TrialPlan

from .conftest import ensure_sweep, job_of


@pytest.fixture(scope="module")
def plan(digits: Manifest) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", "seeds": [0, 1, 2]}), digits)


@pytest.fixture
def request_(tracker: Tracker, plan: Plan) -> ExperimentRequest:
    return ExperimentRequest(
        uid=tracker.uid, job="x", plan=plan, tracking_uri=tracker.uri, storage="/nowhere", cache_root="/nowhere"
    )


@pytest.fixture
def sweep_id(tracker: Tracker, plan: Plan) -> str:
    return ensure_sweep(tracker, plan)


def finish(tracker: Tracker, plan: Plan, sweep_id: str, number: int, top1: float, outcome: Outcome) -> str:
    """A trial with a model that has ended."""
    run_id = tracker.ensure_trial(job_of(plan, number), sweep_id)
    MetricLog(tracker, run_id).log([MetricPoints(1, [(1, {metrics.BEST_TOP1: top1})])])
    client = MlflowClient(tracker.uri)
    model = client.create_logged_model(tracker.experiment_id, name="model", source_run_id=run_id)
    client.finalize_logged_model(model.model_id, "READY")
    client.set_tag(run_id, tags.MODEL_URI, f"models:/{model.model_id}")
    tracker.finish(run_id, outcome)
    return run_id


def of_epochs(trial: TrialPlan, epochs: int) -> TrialPlan:
    return trial.model_copy(update={"recipe": trial.recipe.model_copy(update={"epochs": epochs})})


def left(request: ExperimentRequest, tracker: Tracker) -> list[str]:
    records = {record.trial_id: record for record in tracker.trials()}
    return [trial.trial_id for trial in _source(request, tracker, records).waiting()]


def champion(tracker: Tracker) -> str:
    return str(MlflowClient(tracker.uri).get_model_version_by_alias(tracker.experiment, "champion").run_id)


def test_the_best_of_the_completed_trials_becomes_the_champion(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str
) -> None:
    runs = [finish(tracker, plan, sweep_id, n, top1, Outcome.COMPLETED) for n, top1 in enumerate((0.5, 0.75, 0.25))]
    assert conclude(request_, tracker, sweep_id, {})
    assert champion(tracker) == runs[1]
    assert tracker.sweep_outcome() is Outcome.COMPLETED


def test_a_trial_that_failed_is_no_champion_and_fails_the_sweep(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    finish(tracker, plan, sweep_id, 0, 0.9, Outcome.FAILED)
    good = finish(tracker, plan, sweep_id, 1, 0.1, Outcome.COMPLETED)
    third = plan.trials[2].trial_id
    assert not conclude(request_, tracker, sweep_id, {third: "it never started"})
    assert champion(tracker) == good
    run = MlflowClient(tracker.uri).get_run(sweep_id)
    assert (run.info.status, run.data.tags["outcome.reason"]) == ("FAILED", "2 of 3 trials did not complete")
    assert [record.trial for record in caplog.records if record.levelname == "ERROR"] == [  # type: ignore[attr-defined]
        plan.trials[0].trial_id,
        third,
    ]
    assert "it never started" in caplog.text


def state_of(tracker: Tracker, sweep_id: str) -> tuple[str, str, str | None]:
    run = MlflowClient(tracker.uri).get_run(sweep_id)
    return run.data.tags["outcome"], run.info.status, run.data.tags.get("outcome.reason")


def test_a_trial_that_a_scheduler_stopped_is_finished_and_one_that_was_cancelled_fails_nothing(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str
) -> None:
    first, _, third = (
        finish(tracker, plan, sweep_id, n, top1, outcome)
        for n, (top1, outcome) in enumerate(
            ((0.5, Outcome.COMPLETED), (0.9, Outcome.STOPPED), (0.9, Outcome.CANCELLED))
        )
    )
    assert conclude(request_, tracker, sweep_id, {})
    assert state_of(tracker, sweep_id) == ("cancelled", "KILLED", "1 of 3 trials were cancelled")
    assert champion(tracker) == first
    tracker.finish(third, Outcome.STOPPED, "rung 1 of 3")
    tracker.ensure_sweep({}, "", "")
    assert conclude(request_, tracker, sweep_id, {})
    assert state_of(tracker, sweep_id) == ("completed", "FINISHED", None)


def test_a_trial_that_the_user_stopped_while_it_waited_is_cancelled_and_not_lost(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str
) -> None:
    ids = [trial.trial_id for trial in plan.trials]
    for number in (0, 1):
        tracker.wait_for_turn(tracker.ensure_trial(job_of(plan, number), sweep_id))
    StopRequests(tracker).request(ids[1])
    assert not conclude(request_, tracker, sweep_id, {})
    states = {record.trial_id: record.outcome for record in tracker.trials()}
    assert states == {ids[0]: Outcome.FAILED, ids[1]: Outcome.CANCELLED}


def test_what_is_left_is_all_but_the_finished_and_waits_as_pending(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str
) -> None:
    ids = [trial.trial_id for trial in plan.trials]
    assert left(request_, tracker) == ids
    ended = (Outcome.COMPLETED, Outcome.STOPPED, Outcome.CANCELLED)
    for number, outcome in enumerate(ended):
        finish(tracker, plan, sweep_id, number, 0.5, outcome)
    assert left(request_, tracker) == [ids[2]]
    assert [found.outcome for found in tracker.trials()] == [*ended[:2], Outcome.PENDING]


def test_a_completed_trial_that_got_more_epochs_is_left_and_a_stopped_one_is_not(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str
) -> None:
    for number, outcome in enumerate((Outcome.COMPLETED, Outcome.STOPPED)):
        finish(tracker, plan, sweep_id, number, 0.5, outcome)
    longer = plan.model_copy(update={"trials": tuple(of_epochs(trial, 20) for trial in plan.trials)})
    request = request_.model_copy(update={"plan": longer})
    assert left(request, tracker) == [plan.trials[0].trial_id, plan.trials[2].trial_id]
    # Run with its new epochs it is completed again, although its parameter stays.
    finish(tracker, longer, sweep_id, 0, 0.5, Outcome.COMPLETED)
    assert left(request, tracker) == [plan.trials[2].trial_id]
    (record,) = (found for found in tracker.trials() if found.trial_id == plan.trials[0].trial_id)
    assert record.epochs == 20


def test_a_trial_whose_process_was_lost_does_not_look_alive(
    tracker: Tracker, plan: Plan, request_: ExperimentRequest, sweep_id: str
) -> None:
    for number in (0, 1):
        tracker.ensure_trial(job_of(plan, number), sweep_id)
    assert not conclude(request_, tracker, sweep_id, {plan.trials[0].trial_id: "killed by signal 9"})
    reasons = {record.trial_id: (record.outcome, record.reason) for record in tracker.trials()}
    assert reasons == {
        plan.trials[0].trial_id: (Outcome.FAILED, "killed by signal 9"),
        plan.trials[1].trial_id: (Outcome.FAILED, "the trial's process was lost"),
    }
