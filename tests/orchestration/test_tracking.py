"""Runs, metrics and models on a real MLflow server: every call may be repeated, and nothing appears twice."""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
import torch
from mlflow import MlflowClient
from torch import nn

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.errors import EngineError, NameTakenError, UserError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking import runs as runs_module
from effnet_cluster.orchestration.tracking.comparison import compare
from effnet_cluster.orchestration.tracking.metric_log import MetricLog, MetricPoints
from effnet_cluster.orchestration.tracking.models import log_model, register_champion
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.saved_view import save_view, table_url
from effnet_cluster.orchestration.tracking.watch import TrialWatch
from effnet_cluster.orchestration.training import metrics
from effnet_cluster.orchestration.training.classifier import ServedClassifier
from effnet_cluster.orchestration.training.job import TrialPlan

from .conftest import ensure_sweep, job_of


@pytest.fixture(scope="module")
def plan(digits: Manifest) -> Plan:
    fields = {"name": "x", "variants": "b0-b1", "activations": "relu", "shortcuts": "none,residual", "seeds": [4]}
    fields |= {"execution": {"workers": 2}}
    return make_plan(ExperimentSpec.parse(fields), digits)


@pytest.fixture
def again(tracker: Tracker) -> Callable[[], Tracker]:
    """Another object for the same experiment, as a restarted process would have it."""
    return lambda: Tracker(tracker.uri, tracker.experiment, tracker.uid)


def start(tracker: Tracker, plan: Plan, number: int = 0) -> str:
    return tracker.ensure_trial(job_of(plan, number), ensure_sweep(tracker, plan))


def log(metric_log: MetricLog, *points: tuple[int, dict[str, float]], at: int = 1_800_000_000_000) -> None:
    metric_log.log([MetricPoints(at, points)])


def runs(tracker: Tracker) -> list[Any]:
    client = MlflowClient(tracker.uri)
    experiment = client.get_experiment_by_name(tracker.experiment)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def history(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    points = MlflowClient(tracker.uri).get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_the_same_sweep_and_trial_are_the_same_runs_for_ever(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan
) -> None:
    parents = {ensure_sweep(t, plan) for t in (tracker, tracker, again())}
    assert len(parents) == 1
    (parent,) = parents
    children = {t.ensure_trial(job_of(plan, n), parent) for t in (tracker, tracker, again()) for n in range(4)}
    assert len(children) == len(plan.trials) == 4
    assert {run.info.run_id for run in runs(tracker)} == parents | children


def test_a_trials_run_stands_under_its_sweep_with_what_tells_it_apart(tracker: Tracker, plan: Plan) -> None:
    parent = ensure_sweep(tracker, plan)
    by_id = {}
    for number, trial in enumerate(plan.trials):
        run_id = tracker.ensure_trial(job_of(plan, number), parent)
        by_id[run_id] = trial
    client = MlflowClient(tracker.uri)
    for run_id, trial in by_id.items():
        run = client.get_run(run_id)
        assert run.info.run_name == trial.trial_id
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert {n: run.data.tags[n] for n in ("variant", "activation", "shortcut")} == {
            "variant": trial.variant,
            "activation": "relu",
            "shortcut": trial.model.shortcut,
        }
        found = run.data.params
        assert int(found["params"]) == trial.params
        assert int(found["macs"]) == trial.macs
        assert (found["seed"], found["image_size"]) == ("4", str(trial.image_size))
        assert float(found["lr"]) == trial.recipe.lr
        assert float(found["dropout"]) == trial.model.dropout
        assert (found["workers"], found["data"]) == ("2", "digits")
        assert run.data.tags["data.digest"] == plan.data_digest
    assert len({(r["variant"], r["shortcut"]) for r in (client.get_run(i).data.params for i in by_id)}) == 4


def test_a_sweep_that_goes_on_after_its_end_is_running_again(tracker: Tracker, plan: Plan) -> None:
    parent, client = ensure_sweep(tracker, plan), MlflowClient(tracker.uri)
    tracker.finish(parent, Outcome.FAILED, "1 of 4 trials did not complete")
    ended = client.get_run(parent)
    assert (ended.info.status, ended.data.tags["outcome.reason"]) == ("FAILED", "1 of 4 trials did not complete")
    assert ensure_sweep(tracker, plan) == parent
    again = client.get_run(parent)
    assert (again.info.status, again.data.tags["outcome"]) == ("RUNNING", "running")
    assert not again.data.tags.get("outcome.reason")


def test_the_sweeps_run_holds_the_specification_that_repeats_it(tracker: Tracker, plan: Plan) -> None:
    parent = ensure_sweep(tracker, plan)
    client = MlflowClient(tracker.uri)
    path = client.download_artifacts(parent, "experiment.yaml")
    assert ExperimentSpec.parse(ExperimentSpec.fields_from_yaml(Path(path))) == plan.spec
    assert client.get_run(parent).data.params["variants"] == "b0,b1"


def test_a_run_whose_worker_was_lost_while_creating_it_gets_its_parameters(tracker: Tracker, plan: Plan) -> None:
    """What is left when a process dies between making the run and describing it."""
    parent, trial = ensure_sweep(tracker, plan), plan.trials[0]
    tags = {"effnet.role": "trial", "effnet.trial": trial.trial_id, "outcome": "running"}
    lost = MlflowClient(tracker.uri).create_run(tracker.experiment_id, tags=tags).info.run_id
    assert compare(tracker.trials()) == []
    assert tracker.ensure_trial(job_of(plan), parent) == lost
    (row,) = compare(tracker.trials())
    assert (row.trial, row.params) == (trial.trial_id, trial.params)


def test_reading_the_trials_of_an_experiment_that_is_not_there_creates_nothing(mlflow_uri: str) -> None:
    tracker = Tracker(mlflow_uri, "never-submitted", "u")
    assert tracker.trials() == []
    tracker.cancel()
    assert MlflowClient(mlflow_uri).get_experiment_by_name("never-submitted") is None


def test_trials_are_read_back_in_the_order_in_which_they_started(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan
) -> None:
    order = [2, 0, 3, 1]
    for number in order:
        start(tracker, plan, number)
        time.sleep(0.002)  # MLflow's clock ticks in milliseconds
    records = again().trials()
    assert [record.trial_id for record in records] == [plan.trials[number].trial_id for number in order]
    assert {record.outcome for record in records} == {Outcome.RUNNING}


def test_no_step_is_logged_twice_also_not_by_a_worker_that_replays(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan
) -> None:
    run_id = start(tracker, plan)
    first = MetricLog(tracker, run_id)
    log(first, (1, {"a": 0.5, "b": 1.0}))
    log(first, (1, {"a": 9.0}))
    log(first, (2, {"a": 0.25}), (3, {"a": 0.125}))
    replayed = MetricLog(again(), run_id)
    log(replayed, (1, {"a": 7.0, "b": 7.0}), (3, {"a": 7.0}), (4, {"a": 0.0625, "b": 4.0}))
    log(replayed, (0, {"a": 7.0}))
    assert history(tracker, run_id, "a") == [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625)]
    assert history(tracker, run_id, "b") == [(1, 1.0), (4, 4.0)]


def test_step_0_counts(tracker: Tracker, plan: Plan) -> None:
    run_id = start(tracker, plan)
    for _ in range(2):
        log(MetricLog(tracker, run_id), (0, {"a": 1.0}))
    assert history(tracker, run_id, "a") == [(0, 1.0)]


def test_more_metrics_than_a_request_holds_all_arrive_once(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan
) -> None:
    run_id = start(tracker, plan)
    points = [(step, {"loss": step / 7, "lr": 1.0}) for step in range(1300)]
    log(MetricLog(tracker, run_id), *points)
    log(MetricLog(again(), run_id), *points, (1300, {"loss": 0.0}))
    assert history(tracker, run_id, "loss") == [(step, step / 7) for step in range(1300)] + [(1300, 0.0)]
    assert len(history(tracker, run_id, "lr")) == 1300


def test_a_loss_that_is_no_number_is_logged_as_such(tracker: Tracker, plan: Plan) -> None:
    run_id = start(tracker, plan)
    log(MetricLog(tracker, run_id), (1, {"loss": float("nan")}))
    ((step, value),) = history(tracker, run_id, "loss")
    assert step == 1
    assert np.isnan(value)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.COMPLETED, "FINISHED"),
        (Outcome.STOPPED, "FINISHED"),
        (Outcome.FAILED, "FAILED"),
        (Outcome.CANCELLED, "KILLED"),
        (Outcome.INTERRUPTED, "FAILED"),
    ],
)
def test_outcomes_are_mlflows_nearest_status_and_read_back_exactly(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan, outcome: Outcome, status: str
) -> None:
    run_id = start(tracker, plan)
    client = MlflowClient(tracker.uri)
    assert client.get_run(run_id).info.status == "RUNNING"
    tracker.finish(run_id, outcome, "because")
    run = client.get_run(run_id)
    assert run.info.status == status
    assert run.data.tags["outcome.reason"] == "because"
    (record,) = again().trials()
    assert record.outcome is outcome
    assert record.outcome.is_terminal


def test_a_state_is_still_to_run_or_terminal_and_resume_leaves_two_of_these_alone() -> None:
    assert [outcome.value for outcome in Outcome if not outcome.is_terminal] == ["planned", "pending", "running"]
    assert [outcome.value for outcome in Outcome if outcome.is_finished] == ["completed", "stopped"]
    assert len(Outcome) == 8


@pytest.mark.parametrize("before", [Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.COMPLETED])
def test_a_trial_that_is_to_run_again_is_pending_until_its_turn(tracker: Tracker, plan: Plan, before: Outcome) -> None:
    run_id = start(tracker, plan)
    tracker.finish(run_id, before, "because")
    (record,) = tracker.trials()
    assert record.began is not None
    assert record.ended is not None
    assert record.began <= record.ended
    tracker.wait_for_turn(run_id)
    (record,) = tracker.trials()
    assert (record.outcome, record.reason, record.ended) == (Outcome.PENDING, "", None)
    assert MlflowClient(tracker.uri).get_run(run_id).info.status == "SCHEDULED"
    tracker.end_unfinished(Outcome.INTERRUPTED, "lost")
    assert [record.outcome for record in tracker.trials()] == [Outcome.INTERRUPTED]


def test_a_failed_run_that_is_resumed_runs_again_and_finishes(tracker: Tracker, plan: Plan) -> None:
    run_id = start(tracker, plan)
    tracker.finish(run_id, Outcome.FAILED, "lost")
    client = MlflowClient(tracker.uri)
    assert start(tracker, plan) == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    assert [record.outcome for record in tracker.trials()] == [Outcome.RUNNING]
    log(MetricLog(tracker, run_id), (5, {"a": 1.0}))
    tracker.finish(run_id, Outcome.COMPLETED)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.metrics["a"] == 1


@pytest.mark.parametrize("waited", [False, True], ids=["running", "pending"])
def test_a_process_that_is_killed_while_it_closes_a_run_leaves_it_to_the_next_one(
    tracker: Tracker, plan: Plan, monkeypatch: pytest.MonkeyPatch, waited: bool
) -> None:
    class KilledError(Exception):
        pass

    def is_killed(*_: object, **__: object) -> None:
        raise KilledError

    run_id, other = start(tracker, plan, 0), start(tracker, plan, 1)
    if waited:
        tracker.wait_for_turn(run_id)
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "set_terminated", is_killed)
        with pytest.raises(KilledError):
            tracker.finish(run_id, Outcome.STOPPED, "asha")
    client = MlflowClient(tracker.uri)
    assert client.get_run(run_id).info.status != "FINISHED"
    tracker.end_half_ended()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(other).info.status == "RUNNING"
    assert {record.outcome for record in tracker.trials()} == {Outcome.STOPPED, Outcome.RUNNING}
    tracker.end_unfinished(Outcome.INTERRUPTED, "lost")
    assert {record.outcome for record in tracker.trials()} == {Outcome.STOPPED, Outcome.INTERRUPTED}


def test_a_very_long_reason_is_cut_rather_than_refused(tracker: Tracker, plan: Plan) -> None:
    run_id = start(tracker, plan)
    tracker.finish(run_id, Outcome.FAILED, "x" * 100_000)
    assert MlflowClient(tracker.uri).get_run(run_id).info.status == "FAILED"


def test_cancelling_ends_what_runs_and_leaves_what_has_ended(tracker: Tracker, plan: Plan) -> None:
    ended = {
        start(tracker, plan, 0): Outcome.COMPLETED,
        start(tracker, plan, 1): Outcome.FAILED,
        start(tracker, plan, 2): Outcome.STOPPED,
    }
    for run_id, outcome in ended.items():
        tracker.finish(run_id, outcome)
    alive = start(tracker, plan, 3)
    for _ in range(2):
        tracker.cancel()
        found = {record.run_id: record.outcome for record in tracker.trials()}
        assert found == ended | {alive: Outcome.CANCELLED}
    statuses = {run.info.run_id: run.info.status for run in runs(tracker)}
    assert statuses[alive] == "KILLED"
    assert statuses[ensure_sweep(tracker, plan)] == "KILLED"


def served_network(plan_of: TrialPlan) -> nn.Module:
    torch.manual_seed(0)
    network = EfficientNet(variant("b0", width=0.25, depth=0.25, num_classes=10))
    return ServedClassifier(network, plan_of.image_size, plan_of.eval_resize).eval()


def test_a_logged_model_predicts_on_other_batches_and_sizes_and_is_registered_once(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, model = start(tracker, plan), served_network(plan.trials[0])
    random = np.random.default_rng(0)
    example = random.integers(0, 256, (2, 36, 32, 3), dtype=np.uint8)
    uri = log_model(tracker, run_id, model, example, 0.75, {"image_size": 8})
    assert log_model(again(), run_id, model, example, 0.5, {"image_size": 8}) == uri
    client = MlflowClient(tracker.uri)
    (logged,) = client.search_logged_models([tracker.experiment_id])
    assert logged.source_run_id == run_id
    assert {metric.key: metric.value for metric in logged.metrics} == {"model/top1": 0.75}
    (record,) = tracker.trials()
    assert record.model_uri == uri

    address = register_champion(tracker, run_id, uri)
    assert register_champion(again(), run_id, uri) == address == f"models:/{tracker.experiment}@champion"
    (version,) = client.search_model_versions(f"name='{tracker.experiment}'")
    assert version.run_id == run_id
    assert client.get_model_version_by_alias(tracker.experiment, "champion").version == version.version

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    for place in (uri, address):
        loaded = mlflow.pyfunc.load_model(place)
        for count, height, width in ((1, 32, 32), (3, 32, 32), (2, 36, 32), (5, 50, 41), (1, 16, 90), (4, 200, 301)):
            images = random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
            with torch.inference_mode():
                expected = model(torch.from_numpy(images)).numpy()
            found = loaded.predict(images)
            assert found.shape == (count, 10)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_better_model_of_a_longer_training_replaces_the_runs_and_a_worse_one_does_not(
    tracker: Tracker, again: Callable[[], Tracker], plan: Plan
) -> None:
    run_id, model = start(tracker, plan), served_network(plan.trials[0])
    example = np.random.default_rng(0).integers(0, 256, (2, 36, 32, 3), dtype=np.uint8)
    log(MetricLog(tracker, run_id), (10, {metrics.EPOCH: 10.0}))
    first = log_model(tracker, run_id, model, example, 0.5, {})
    register_champion(tracker, run_id, first)
    log(MetricLog(tracker, run_id), (20, {metrics.EPOCH: 20.0}))
    assert log_model(again(), run_id, model, example, 0.5, {}) == first
    second = log_model(again(), run_id, model, example, 0.75, {})
    assert second != first
    (record,) = tracker.trials()
    assert record.model_uri == second
    assert history(tracker, run_id, metrics.MODEL_TOP1) == [(10, 0.5), (20, 0.75)]
    for _ in range(2):
        register_champion(tracker, run_id, second)
    client = MlflowClient(tracker.uri)
    assert len(client.search_model_versions(f"name='{tracker.experiment}'")) == 2
    assert client.get_model_version_by_alias(tracker.experiment, "champion").source == second


def test_a_better_trial_becomes_the_champion(tracker: Tracker, plan: Plan) -> None:
    """Registering another run's model adds a version and moves the alias."""
    client = MlflowClient(tracker.uri)
    uris = []
    for number in (0, 1):
        run_id = start(tracker, plan, number)
        model = client.create_logged_model(tracker.experiment_id, name="model", source_run_id=run_id)
        client.finalize_logged_model(model.model_id, "READY")
        uris.append((run_id, f"models:/{model.model_id}"))
    for run_id, uri in uris:
        register_champion(tracker, run_id, uri)
        assert client.get_model_version_by_alias(tracker.experiment, "champion").run_id == run_id
    assert len(client.search_model_versions(f"name='{tracker.experiment}'")) == 2


def test_what_a_server_took_without_confirming_it_is_there_once(tracker: Tracker, plan: Plan) -> None:
    """Another process sends the same points, at the same time of measurement, without knowing what is there."""
    run_id = start(tracker, plan)
    points = [(step, {"a": 1 / step}) for step in range(1, 5)]
    log(MetricLog(tracker, run_id), *points, at=1_700_000_000_123)
    unaware = MetricLog(tracker, run_id)
    unaware._last = {"a": 1}
    log(unaware, *points, (5, {"a": 0.2}), at=1_700_000_000_123)
    assert history(tracker, run_id, "a") == [(step, 1 / step) for step in range(1, 6)]


def test_several_batches_of_one_request_keep_their_times(tracker: Tracker, plan: Plan) -> None:
    run_id = start(tracker, plan)
    MetricLog(tracker, run_id).log([MetricPoints(1000, [(1, {"a": 1.0})]), MetricPoints(2000, [(2, {"a": 2.0})])])
    assert [(point.step, point.logged_at) for point in tracker.history(run_id, "a")] == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("call", ["claim", "trials", "cancel", "sweep"])
def test_a_name_that_is_anothers_is_refused_and_left_alone(tracker: Tracker, plan: Plan, call: str) -> None:
    run_id = start(tracker, plan)
    tracker.finish(run_id, Outcome.FAILED, "theirs")
    stranger = Tracker(tracker.uri, tracker.experiment, "another")
    calls = {
        "claim": stranger.claim,
        "trials": stranger.trials,
        "cancel": stranger.cancel,
        "sweep": lambda: ensure_sweep(stranger, plan),
    }
    with pytest.raises(NameTakenError, match=f"has an experiment '{tracker.experiment}'.*--name") as caught:
        calls[call]()
    assert "\n" not in str(caught.value)
    (record,) = tracker.trials()
    assert (record.outcome, record.reason) == (Outcome.FAILED, "theirs")


def test_an_experiment_that_somebody_made_by_hand_is_nobodys_to_take(tracker: Tracker) -> None:
    MlflowClient(tracker.uri).create_experiment(tracker.experiment)
    with pytest.raises(NameTakenError, match="has an experiment"):
        tracker.claim()


def test_a_registered_model_of_the_name_is_refused_and_its_champion_stays(tracker: Tracker, plan: Plan) -> None:
    client = MlflowClient(tracker.uri)
    client.create_registered_model(tracker.experiment)
    theirs = client.create_experiment(f"{tracker.experiment}-theirs")
    model = client.create_logged_model(theirs, name="model")
    client.finalize_logged_model(model.model_id, "READY")
    version = client.create_model_version(tracker.experiment, f"models:/{model.model_id}", model_id=model.model_id)
    client.set_registered_model_alias(tracker.experiment, "champion", version.version)
    with pytest.raises(NameTakenError, match="has a registered model"):
        tracker.claim()
    run_id = start(tracker, plan)
    with pytest.raises(NameTakenError, match="has a registered model"):
        register_champion(tracker, run_id, "models:/m-1")
    assert client.get_model_version_by_alias(tracker.experiment, "champion").version == version.version
    assert len(client.search_model_versions(f"name='{tracker.experiment}'")) == 1


def test_a_claim_holds_for_its_owner_and_a_name_that_was_released_is_free(tracker: Tracker, plan: Plan) -> None:
    tracker.claim()
    tracker.claim()
    Tracker(tracker.uri, tracker.experiment, tracker.uid).release()
    other = Tracker(tracker.uri, tracker.experiment, "another")
    other.claim()
    assert start(other, plan)
    with pytest.raises(NameTakenError):
        Tracker(tracker.uri, tracker.experiment, tracker.uid).claim()


def test_a_saved_view_stays_as_somebody_has_changed_it_on_the_page(tracker: Tracker) -> None:
    """What the page makes of it: tests/e2e/test_saved_view.py."""
    tracker.claim()
    save_view(tracker, ["lr"])
    (name,) = (name for name in tracker.experiment_tags() if name.startswith("mlflow.sharedViewState."))
    assert table_url(tracker).endswith(f"?viewStateShareKey={name.rpartition('.')[2]}")
    tracker.client.set_experiment_tag(tracker.experiment_id, name, "changed")
    save_view(tracker, ["lr"])
    assert tracker.experiment_tags()[name] == "changed"


def test_of_two_that_claim_a_name_at_once_one_gets_it(tracker: Tracker) -> None:
    """Both have found the name free; the second one's creation is refused by the server."""
    tracker.check_model_name()
    late = Tracker(tracker.uri, tracker.experiment, "late")
    late._find_experiment = lambda: None  # type: ignore[method-assign]
    tracker.claim()
    with pytest.raises(NameTakenError):
        late.claim()


def test_what_a_lost_job_left_open_is_closed_and_nothing_else(tracker: Tracker, plan: Plan) -> None:
    ended = {start(tracker, plan, 0): Outcome.COMPLETED, start(tracker, plan, 1): Outcome.CANCELLED}
    for run_id, outcome in ended.items():
        tracker.finish(run_id, outcome)
    alive = start(tracker, plan, 2)
    tracker.end_unfinished(Outcome.FAILED, "lost")
    assert {record.run_id: record.outcome for record in tracker.trials()} == ended | {alive: Outcome.FAILED}
    assert tracker.sweep_outcome() is Outcome.FAILED
    sweep = ensure_sweep(tracker, plan)
    tracker.finish(sweep, Outcome.COMPLETED)
    tracker.end_unfinished(Outcome.FAILED, "lost")
    assert tracker.sweep_outcome() is Outcome.COMPLETED


def test_looking_again_asks_for_the_trials_that_run_and_for_those_that_ran(
    tracker: Tracker, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = TrialWatch(tracker)
    assert list(watch.look()) == []
    first, second = start(tracker, plan, 0), start(tracker, plan, 1)
    assert [record.run_id for record in watch.look()] == [first, second]
    read: list[str] = []
    of = TrialRecord.of
    monkeypatch.setattr(TrialRecord, "of", lambda run: read.append(run.info.run_id) or of(run))
    tracker.finish(first, Outcome.COMPLETED)
    third = start(tracker, plan, 2)
    assert {record.run_id: record.outcome for record in watch.look()} == {
        first: Outcome.COMPLETED,
        second: Outcome.RUNNING,
        third: Outcome.RUNNING,
    }
    read.clear()
    assert len(watch.look()) == 3
    assert sorted(read) == sorted([second, third]), "what has ended was read again"
    tracker.finish(start(tracker, plan, 3), Outcome.FAILED)  # started and ended between two looks
    assert len(watch.look()) == 4
    tracker.wait_for_turn(third)  # as a scheduler pauses it
    assert {record.run_id: record.outcome for record in watch.look()}[third] is Outcome.PENDING
    assert [record.run_id for record in watch.look_at_all()] == [record.run_id for record in tracker.trials()]


def count_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to MLflow from now on, by their paths."""
    asked: list[str] = []
    send = requests.Session.request

    def count(self: requests.Session, method: str, url: str, *arguments: Any, **named: Any) -> requests.Response:
        asked.append(url.rpartition("/mlflow/")[2])
        return send(self, method, url, *arguments, **named)

    monkeypatch.setattr(requests.Session, "request", count)
    return asked


def test_a_look_takes_two_requests_and_a_list_one_per_page(
    tracker: Tracker, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "_PAGE", 2)
    for number in range(3):
        tracker.finish(start(tracker, plan, number), Outcome.COMPLETED)
    start(tracker, plan, 3)
    asked = count_requests(monkeypatch)
    watch = TrialWatch(Tracker(tracker.uri, tracker.experiment, tracker.uid))
    assert len(watch.look()) == 4
    assert asked == ["experiments/get-by-name", *["runs/search"] * 2]
    for _ in range(3):
        asked.clear()
        assert len(watch.look()) == 4
        assert asked == ["runs/search"] * 2


def test_an_experiment_that_was_deleted_is_told_and_not_revived(tracker: Tracker, plan: Plan) -> None:
    client = MlflowClient(tracker.uri)
    client.delete_experiment(client.create_experiment(tracker.experiment))
    for call in (lambda: ensure_sweep(tracker, plan), tracker.trials, tracker.cancel):
        with pytest.raises(UserError, match=f"^experiment '{tracker.experiment}' was deleted in MLflow at") as caught:
            call()
        assert "\n" not in str(caught.value)
    found = client.get_experiment_by_name(tracker.experiment)
    assert found is not None
    assert found.lifecycle_stage == "deleted"


def test_a_server_that_is_not_there_is_told_in_one_line_with_its_address(plan: Plan) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(EngineError, match=re.escape(f"MLflow server {uri}: ")) as caught:
        ensure_sweep(Tracker(uri, "x", "u"), plan)
    assert time.monotonic() - started < 15
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_run_that_is_not_there_is_an_engines_error(tracker: Tracker) -> None:
    with pytest.raises(EngineError, match="not found"):
        tracker.finish("0" * 32, Outcome.COMPLETED)


def test_a_run_is_left_with_the_last_request_of_the_process_that_leaves_it(
    tracker: Tracker, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for that closes the run at once, and a later request would open it again."""
    run_id, waiting = start(tracker, plan), Tracker(tracker.uri, tracker.experiment, tracker.uid)
    send, before = MlflowClient.log_batch, list[str]()

    def look_first(self: MlflowClient, *arguments: Any, **named: Any) -> None:
        before.append(waiting.client.get_run(run_id).info.status)
        send(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", look_first)
    tracker.wait_for_turn(run_id)
    assert before == ["SCHEDULED"]


def test_a_new_run_is_not_asked_for_the_history_of_each_metric(
    tracker: Tracker, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start(tracker, plan)
    names = [f"metric/{number}" for number in range(20)]
    asked = count_requests(monkeypatch)
    log = MetricLog(tracker, run_id)
    log.log([MetricPoints(1, [(1, dict.fromkeys(names, 0.5))])])
    log.log([MetricPoints(2, [(2, dict.fromkeys(names, 0.25))])])
    assert len(asked) == 3, asked
    again = MetricLog(tracker, run_id)
    again.log([MetricPoints(3, [(2, dict.fromkeys(names, 0.25)), (3, {"another": 1.0})])])
    assert [(point.step, point.value) for point in tracker.history(run_id, names[0])] == [(1, 0.5), (2, 0.25)]
    assert [point.step for point in tracker.history(run_id, "another")] == [3]
