"""An experiment's record, its name on a real MLflow server and its storage, whatever happens while it is submitted."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet_cluster.cluster import lifecycle, states
from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiment, Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.lifecycle import extend, launch, resume, stop, stop_trial
from effnet_cluster.cluster.states import job_state, note_end, standing
from effnet_cluster.datasets import Manifest, prepare_digits
from effnet_cluster.orchestration.errors import EngineError, NameTakenError, UserError
from effnet_cluster.orchestration.extension import Extension
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.stop_requests import StopRequests
from effnet_cluster.orchestration.training.execution import Execution

from ..orchestration.conftest import job_of
from .conftest import make_request


class Cluster:
    """Stands in for the Jobs API, which `test_jobs` and the end-to-end tests cover."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.requests: list[ExperimentRequest] = []
        self.error: BaseException | None = None
        self.takes_it_all_the_same = self.is_gone = False

    def __call__(self, address: str) -> Cluster:
        return self

    def submit(self, request: ExperimentRequest) -> None:
        if self.error is None or self.takes_it_all_the_same:
            assert request.job not in self.jobs, "a job of that id exists"
            self.jobs[request.job] = "RUNNING"
            self.requests.append(request)
        if self.error:
            raise self.error

    def status(self, job: str) -> str:
        if self.is_gone:
            raise EngineError("Ray at http://127.0.0.1:1: no answer")
        return self.jobs.get(job, "UNKNOWN")

    def is_active(self, job: str) -> bool:
        return self.status(job) in ("PENDING", "RUNNING")

    def stop(self, job: str) -> None:
        self.jobs[job] = "STOPPED"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(lifecycle, "Jobs", cluster)
    monkeypatch.setattr(states, "Jobs", cluster)
    monkeypatch.setattr(lifecycle, "reconnect", lambda _, experiment: experiment)
    monkeypatch.setattr(lifecycle, "_require_data", lambda *_: None)  # `test_changed_data` is about these
    return cluster


@pytest.fixture
def engines(mlflow_uri: str) -> Engines:
    return Engines("http://127.0.0.1:1", mlflow_uri, local_ray=True, local_mlflow=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare_digits(tmp_path_factory.mktemp("digits") / "shards")


_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """Of this test's own: all of them share the server."""
    return f"flowers{next(_numbers):03d}"


def plan(name: str) -> Plan:
    return make_request(name, "http://x").plan


def of_name(uri: str, name: str) -> list[str]:
    """The server's live experiments whose names begin so."""
    return sorted(e.name for e in MlflowClient(uri).search_experiments() if e.name.startswith(name))


def test_everything_that_is_its_own_bears_one_id(tmp_path: Path, cluster: Cluster, engines: Engines, name: str) -> None:
    home = Home(tmp_path)
    experiment = launch(home, plan(name), engines)
    uid = experiment.request.uid
    assert Experiments(home).load(name) == experiment
    assert Path(experiment.request.storage, "effnet-uid").read_text() == uid
    found = MlflowClient(engines.tracking_uri).get_experiment_by_name(name)
    assert found is not None
    assert found.tags["effnet.uid"] == uid
    assert [(request.uid, request.job) for request in cluster.requests] == [(uid, name)]


def test_the_record_is_there_before_the_job(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Experiment] = []
    monkeypatch.setattr(Cluster, "submit", lambda _, request: seen.append(Experiments(Home(tmp_path)).load(name)))
    assert launch(Home(tmp_path), plan(name), engines) == seen[0]


def test_a_refused_job_leaves_nothing_and_the_name_free(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home = Home(tmp_path)
    cluster.error = EngineError("Ray at http://127.0.0.1:1: no")
    with pytest.raises(EngineError):
        launch(home, plan(name), engines, str(tmp_path / "storage"))
    assert Experiments(home).names() == []
    assert of_name(engines.tracking_uri, name) == []
    cluster.error = None
    launch(home, plan(name), engines, str(tmp_path / "storage"))


@pytest.mark.parametrize("error", [EngineError("Ray at http://127.0.0.1:1: timed out"), KeyboardInterrupt()])
def test_a_job_that_the_cluster_took_although_it_failed_here_can_be_stopped(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, error: BaseException
) -> None:
    home = Home(tmp_path)
    cluster.error, cluster.takes_it_all_the_same = error, True
    with pytest.raises(type(error)):
        launch(home, plan(name), engines)
    assert stop(home, name)
    assert cluster.jobs == {name: "STOPPED"}


def test_a_cluster_that_no_longer_answers_may_have_the_job_whose_record_stays(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home = Home(tmp_path)
    cluster.error, cluster.takes_it_all_the_same, cluster.is_gone = EngineError("timed out"), True, True
    with pytest.raises(EngineError, match="timed out"):
        launch(home, plan(name), engines)
    cluster.is_gone = False
    assert stop(home, name)
    assert cluster.jobs == {name: "STOPPED"}


def test_a_name_that_another_home_has_on_the_server_is_refused(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    launch(Home(tmp_path / "one"), plan(name), engines)
    two = Home(tmp_path / "two")
    with pytest.raises(NameTakenError, match=r"MLflow at .* has an experiment"):
        launch(two, plan(name), engines)
    assert Experiments(two).names() == []
    assert len(cluster.requests) == 1


def test_a_name_whose_record_was_removed_is_refused(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home, storage = Home(tmp_path / "home"), str(tmp_path / "storage")
    launch(home, plan(name), engines, storage)
    Experiments(home).remove(name)
    with pytest.raises(NameTakenError, match="is another experiment's"):
        launch(home, plan(name), engines, storage)
    with pytest.raises(NameTakenError, match="MLflow at"):
        launch(home, plan(name), engines, str(tmp_path / "another"))
    assert Path(storage, name, "effnet-uid").exists(), "the first one's"
    assert not Path(tmp_path, "another", name, "effnet-uid").exists()


def test_a_name_that_was_made_up_gives_way_here_on_the_server_and_in_the_storage(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home, storage = Home(tmp_path / "home"), str(tmp_path / "storage")
    launch(home, plan(name), engines, storage, rename=True)
    launch(Home(tmp_path / "other"), plan(f"{name}-2"), engines)
    Path(storage, f"{name}-3", "tune").mkdir(parents=True)
    fourth = launch(home, plan(name), engines, storage, rename=True)
    assert fourth.name == f"{name}-4"
    assert fourth.request.spec.name == fourth.job == f"{name}-4"
    assert Experiments(home).names() == [name, f"{name}-4"]


def _launch_unnamed(root: Path, engines: Engines, name: str) -> None:
    lifecycle.Jobs = Cluster()  # type: ignore[misc, assignment]
    launch(Home(root), plan(name), engines, rename=True)


def test_many_that_are_submitted_at_once_get_a_name_each(tmp_path: Path, engines: Engines, name: str) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_launch_unnamed, args=(tmp_path, engines, name)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    wanted = [name, *(f"{name}-{number}" for number in (2, 3, 4))]
    assert sorted(Experiments(Home(tmp_path)).names()) == wanted
    assert of_name(engines.tracking_uri, name) == wanted


def test_resume_records_the_next_job_first_and_takes_it_back_if_refused(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home = Home(tmp_path)
    first = launch(home, plan(name), engines)
    with pytest.raises(UserError, match="is running"):
        resume(home, name, Execution())
    cluster.jobs[name] = "FAILED"
    cluster.error = EngineError("no")
    with pytest.raises(EngineError):
        resume(home, name, Execution())
    assert Experiments(home).load(name) == first
    cluster.takes_it_all_the_same = True
    with pytest.raises(EngineError):
        resume(home, name, Execution())
    assert Experiments(home).load(name).job == f"{name}-r2"
    cluster.error = None
    with pytest.raises(UserError, match="is running"):
        resume(home, name, Execution())
    cluster.jobs[f"{name}-r2"] = "STOPPED"
    again = resume(home, name, Execution(max_failures=9))
    assert again.jobs == (name, f"{name}-r2", f"{name}-r3")
    assert again.request.uid == first.request.uid
    assert cluster.requests[-1].spec.execution.max_failures == 9


def begin(experiment: Experiment) -> Tracker:
    """The sweep's run, as the driver makes it."""
    experiment.tracker.ensure_sweep({}, "", "")
    return experiment.tracker


def test_a_driver_that_was_killed_leaves_no_run_that_looks_alive(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home = Home(tmp_path)
    experiment = launch(home, plan(name), engines)
    tracker = begin(experiment)
    assert tracker.sweep_outcome() is Outcome.RUNNING
    note_end(home, experiment, "FAILED")
    assert tracker.sweep_outcome() is Outcome.INTERRUPTED
    assert Experiments(home).load(name).ended is Outcome.INTERRUPTED


def test_who_follows_a_stopped_job_and_sees_its_end_first_calls_it_cancelled(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home = Home(tmp_path)
    experiment = launch(home, plan(name), engines)
    tracker = begin(experiment)
    assert note_end(home, experiment, "STOPPED") is Outcome.CANCELLED
    assert tracker.sweep_outcome() is Outcome.CANCELLED


def test_stop_cancels_what_runs_and_leaves_what_has_failed_long_ago(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str
) -> None:
    home = Home(tmp_path)
    tracker = begin(launch(home, plan(name), engines))
    assert stop(home, name)
    assert tracker.sweep_outcome() is Outcome.CANCELLED
    tracker = begin(resume(home, name, Execution()))
    cluster.jobs[f"{name}-r2"] = "FAILED"
    tracker.end_unfinished(Outcome.FAILED, "lost workers")
    assert not stop(home, name)
    assert tracker.sweep_outcome() is Outcome.FAILED
    assert Experiments(home).load(name).ended is Outcome.FAILED


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Outcome.COMPLETED, "completed"), (Outcome.CANCELLED, "cancelled"), (None, "interrupted")],
)
def test_a_cluster_that_has_forgotten_a_job_does_not_make_it_fail(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, outcome: Outcome | None, state: str
) -> None:
    home = Home(tmp_path)
    experiment = launch(home, plan(name), engines)
    tracker = begin(experiment)
    if outcome:
        tracker.end_unfinished(outcome)
    cluster.jobs.clear()
    found = replace(experiment, local_ray=False)
    assert job_state(home, found) == state
    assert Experiments(home).load(name).ended == state


@pytest.mark.parametrize(
    ("status", "outcome", "state"),
    [
        ("SUCCEEDED", Outcome.COMPLETED, "completed"),
        ("SUCCEEDED", Outcome.CANCELLED, "cancelled"),  # all that was left was stopped by the user
        ("SUCCEEDED", Outcome.FAILED, "completed"),  # that is what an earlier job said
        ("FAILED", Outcome.FAILED, "failed"),
        ("FAILED", Outcome.COMPLETED, "failed"),  # before it got to the run
        ("FAILED", Outcome.INTERRUPTED, "interrupted"),
        ("STOPPED", Outcome.CANCELLED, "cancelled"),
        ("STOPPED", Outcome.FAILED, "failed"),
    ],
)
def test_an_experiment_is_what_its_run_says_unless_its_job_knows_better(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, status: str, outcome: Outcome, state: str
) -> None:
    home = Home(tmp_path)
    begin(launch(home, plan(name), engines)).end_unfinished(outcome)
    assert note_end(home, Experiments(home).load(name), status) == state
    assert Experiments(home).load(name).ended == state


@pytest.mark.parametrize(
    ("before", "state"), [("SUCCEEDED", "completed"), ("STOPPED", "cancelled"), ("FAILED", "failed"), (None, None)]
)
def test_a_record_of_an_earlier_version_says_the_same_in_todays_words(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, before: str | None, state: str | None
) -> None:
    home = Home(tmp_path)
    launch(home, plan(name), engines)
    path = Experiments(home).folder(name) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ended": before}))
    assert Experiments(home).load(name).ended == state


def of_two(name: str, digits: Manifest) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": name, "variants": "b0", "seeds": [0, 1]}), digits)


def test_a_trial_is_stopped_alone_before_or_while_it_runs_and_runs_again_when_resumed(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, digits: Manifest
) -> None:
    home = Home(tmp_path)
    experiment = launch(home, of_two(name, digits), engines)
    first, second = (trial.trial_id for trial in experiment.request.plan.trials)
    requests = StopRequests(experiment.tracker)
    with pytest.raises(UserError, match=f"^'{name}' has no trial 'b9'; its trials are {first}, {second}$"):
        stop_trial(home, name, "b9")
    assert stop_trial(home, name, second) is None
    assert requests.all() == {second}
    found = replace(experiment, local_ray=False)
    assert [row.state for row in standing(home, found).trials] == [Outcome.PENDING, Outcome.CANCELLED]
    # The first one runs, and has ended when it is asked again.
    tracker = begin(experiment)
    run_id = tracker.ensure_trial(job_of(experiment.request.plan), "")
    assert [row.state for row in standing(home, found).trials] == [Outcome.RUNNING, Outcome.CANCELLED]
    assert stop_trial(home, name, first) is None
    tracker.finish(run_id, Outcome.CANCELLED)
    assert stop_trial(home, name, first) is Outcome.CANCELLED
    cluster.jobs[name] = "SUCCEEDED"
    with pytest.raises(UserError, match="does not run"):
        stop_trial(home, name, second)
    resume(home, name, Execution())
    assert requests.all() == frozenset()


def test_what_could_not_be_asked_is_told_and_the_plan_is_shown_all_the_same(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, digits: Manifest
) -> None:
    home = Home(tmp_path)
    experiment = launch(home, of_two(name, digits), engines)
    found = standing(home, experiment)  # its own Ray does not run
    assert (found.state, [row.state for row in found.trials]) == (None, [Outcome.PLANNED] * 2)
    assert found.unknown == (
        "whether its job runs is not known: the local ray does not run; `effnet-cluster up` starts it",
    )
    found = standing(home, replace(experiment, local_mlflow=True))
    assert [row.state for row in found.trials] == [None, None]
    assert [line.split(":")[0] for line in found.unknown] == [
        "whether its job runs is not known",
        "what its trials logged is not known",
    ]


def test_an_extended_experiment_keeps_its_name_runs_and_claim_and_gets_another_job(
    tmp_path: Path, cluster: Cluster, engines: Engines, name: str, digits: Manifest
) -> None:
    home = Home(tmp_path)
    first = launch(home, of_two(name, digits), engines)
    with pytest.raises(UserError, match="is running"):
        extend(home, name, Extension(seeds="2"))
    cluster.jobs[name] = "SUCCEEDED"
    note_end(home, first, "SUCCEEDED")
    with pytest.raises(UserError, match="has that already"):
        extend(home, name, Extension(seeds="1"))
    assert Experiments(home).load(name).ended is Outcome.COMPLETED
    longer = extend(home, name, Extension(seeds="2", epochs="20"))
    assert Experiments(home).load(name) == longer
    assert (longer.jobs, longer.ended) == ((name, f"{name}-r2"), None)
    assert (longer.request.uid, longer.request.storage) == (first.request.uid, first.request.storage)
    assert [trial.seed for trial in longer.request.plan.trials] == [0, 1, 2]
    assert cluster.requests[-1] == longer.request
