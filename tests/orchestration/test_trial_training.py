"""The training of a trial with worker groups that only pretend, and a real MLflow server."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.train import WorkerGroupError

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.running import closing, trial_training
from effnet_cluster.orchestration.running.sweep import StoppedRuns
from effnet_cluster.orchestration.running.trial_training import TrialFailedError, TrialTraining
from effnet_cluster.orchestration.sizing.allocation import WorkerResources
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.stop_requests import StopRequests, when_requested
from effnet_cluster.orchestration.tracking.trained import best_of, from_mlflow
from effnet_cluster.orchestration.training.checkpoint import TrainingProgress, encode
from effnet_cluster.orchestration.training.checkpoint_store import CheckpointStore
from effnet_cluster.orchestration.training.errors import NonFiniteLossError, PreemptedError
from effnet_cluster.orchestration.training.job import TrialPlan
from effnet_cluster.orchestration.training.model_facts import ModelFacts

from .conftest import ensure_sweep, job_of

Report = Callable[[dict[str, Any]], None]
FIGURES = ("classes.csv", "classes.png", "confusion.png", "errors.png", "maps.png")


class Groups:
    """Worker groups of which each does the next of `acts`; `steps` are released by the test."""

    def __init__(self, *acts: Callable[[Groups], None]) -> None:
        self._acts = iter(acts)
        self.report: Report = print
        self.left, self.fits = threading.Event(), 0
        self.micro_batch_divisors: list[int] = []

    def __call__(self, controller: str, report: Report) -> Groups:
        self.report = report
        return self

    def fit(self, config: dict[str, Any], counts: Any, scaling_config: Any, run_config: Any) -> None:
        self.fits += 1
        self.micro_batch_divisors.append(config["job"].micro_batch_divisor)
        self.run_id, self.job = config["sink"].run_id, config["job"]
        next(self._acts)(self)

    def ask_to_leave(self) -> None:
        self.left.set()


def leave_trained(store: CheckpointStore, trial: TrialPlan) -> None:
    """What rank 0 leaves at the end: a checkpoint after the last epoch, and images to trace the model with."""
    model = variant("b0", width=0.25, depth=0.25, num_classes=10)
    progress = TrainingProgress(epoch=1, best_top1=0.5, best_epoch=0)
    facts = ModelFacts(model, tuple("0123456789"), trial.image_size, trial.eval_resize)
    weights = {"model": EfficientNet(model).state_dict(), "ema": None}
    store.write(progress.name, encode({"progress": vars(progress), "facts": facts.to_dict(), **weights}), None)
    store.write_example(np.zeros((2, 12, 8, 3), np.uint8))


def leave_unsent(storage: Path, spool: Path) -> Callable[[Groups], None]:
    """What rank 0 leaves that could not send an epoch and a text: one beside its checkpoints, one on its node."""

    def act(groups: Groups) -> None:
        CheckpointStore(str(storage)).write_unsent([{"at": 5, "points": [[1, {"epoch": 1.0}]]}])
        spool.mkdir(parents=True)
        text = {"name": "faults/x.txt", "text": "1\n2\n"}
        (spool / f"{groups.run_id}.jsonl").write_text(json.dumps(text) + "\n")

    return act


def train(*epochs: int) -> Callable[[Groups], None]:
    def act(groups: Groups) -> None:
        for epoch in epochs:
            groups.report({"epoch": epoch})
        leave_trained(CheckpointStore(groups.job.storage), groups.job.trial)

    return act


def fail(error: Exception) -> Callable[[Groups], None]:
    def act(groups: Groups) -> None:
        raise WorkerGroupError("workers failed", {0: error})

    return act


def train_until_asked(groups: Groups) -> None:
    groups.report({"epoch": 1})
    assert groups.left.wait(20)
    fail(PreemptedError("asked to leave"))(groups)


@pytest.fixture(scope="module")
def plan(digits: Manifest) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", "execution": {"max_failures": 1}}), digits)


@pytest.fixture
def asked(tracker: Tracker, plan: Plan, tmp_path: Path) -> ExperimentRequest:
    return ExperimentRequest(
        uid=tracker.uid,
        job="x",
        plan=plan.model_copy(update={"spec": plan.spec.model_copy(update={"name": tracker.experiment})}),
        tracking_uri=tracker.uri,
        storage=str(tmp_path / "storage"),
        cache_root=str(tmp_path / "cache"),
    )


@pytest.fixture
def start(tracker: Tracker, plan: Plan, asked: ExperimentRequest) -> Callable[[Groups], TrialTraining]:
    sweep_id = ensure_sweep(tracker, plan)
    return lambda groups: TrialTraining(asked, sweep_id, plan.trials[0], WorkerResources((1,), 1, False), groups)


def states(tracker: Tracker) -> list[tuple[Outcome, str]]:
    return [(record.outcome, record.reason) for record in tracker.trials()]


def test_a_trial_hands_over_its_reports_and_completes_its_run(start: Any, tracker: Tracker) -> None:
    training = start(Groups(train(1, 2)))
    assert [training.next_report() for _ in range(3)] == [{"epoch": 1}, {"epoch": 2}, None]
    training.leave()
    assert states(tracker) == [(Outcome.COMPLETED, "")]
    (record,) = tracker.trials()
    assert record.model_uri is not None
    assert from_mlflow(tracker.uri, record.model_uri).facts.classes == tuple("0123456789")
    run = tracker.client.get_run(record.run_id)
    assert run.data.tags["figures"] == "of 359 of 359 validation images"
    kept = {file.path for file in tracker.client.list_artifacts(record.run_id, "figures")}
    assert kept == {f"figures/{name}" for name in FIGURES}
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", record.data_digest[:36])


def test_figures_that_cannot_be_drawn_leave_the_trial_as_it_is_and_say_why(
    tracker: Tracker, plan: Plan, asked: ExperimentRequest, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    tracker.finish(run_id, Outcome.COMPLETED)
    leave_trained(store := CheckpointStore(asked.storage_of("x")), plan.trials[0])
    changed = asked.model_copy(update={"plan": asked.plan.model_copy(update={"data_digest": "0" * 64})})
    closing._keep_figures(changed, run_id, best_of(store)[0])
    assert states(tracker) == [(Outcome.COMPLETED, "")]
    told = tracker.client.get_run(run_id).data.tags["figures"]
    assert told.startswith("none: ")
    assert "not 000000000000" in told
    assert "no figures of the model in MLflow: " in caplog.text


def test_a_trial_whose_model_cannot_be_logged_has_failed_and_says_why(start: Any, tracker: Tracker) -> None:
    def act(groups: Groups) -> None:
        train(1)(groups)
        Path(groups.job.storage, "example.npy").unlink()

    training = start(Groups(act))
    assert training.next_report() == {"epoch": 1}
    with pytest.raises(OSError, match=r"example\.npy"):
        training.next_report()
    ((outcome, reason),) = states(tracker)
    assert outcome is Outcome.FAILED
    assert "example.npy" in reason


def test_a_trial_that_is_to_leave_waits_for_its_workers_and_leaves_the_run_to_others(
    start: Any, tracker: Tracker
) -> None:
    groups = Groups(train_until_asked)
    training = start(groups)
    assert training.next_report() == {"epoch": 1}
    assert states(tracker) == [(Outcome.RUNNING, "")]
    training.leave()
    assert groups.fits == 1
    assert states(tracker) == [(Outcome.PENDING, "")]


def test_a_trial_that_never_began_leaves_at_once(start: Any, tracker: Tracker) -> None:
    groups = Groups()
    start(groups).leave()
    assert (groups.fits, states(tracker)) == (0, [])


def test_a_trial_that_the_user_stops_saves_leaves_and_is_cancelled(
    start: Any, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_training, "when_requested", partial(when_requested, every_s=0.1))
    groups = Groups(train_until_asked)
    training = start(groups)
    assert training.next_report() == {"epoch": 1}
    StopRequests(tracker).request(training._trial.trial_id)
    assert training.next_report() is None
    assert groups.fits == 1
    assert states(tracker) == [(Outcome.CANCELLED, "stopped by the user")]


def test_a_trial_that_the_user_stops_before_its_turn_never_starts(start: Any, tracker: Tracker) -> None:
    groups = Groups()
    training = start(groups)
    StopRequests(tracker).request(training._trial.trial_id)
    assert training.next_report() is None
    assert (groups.fits, states(tracker)[0][0]) == (0, Outcome.CANCELLED)
    StopRequests(tracker).clear()
    again = start(Groups(train(1)))
    assert [again.next_report() for _ in range(2)] == [{"epoch": 1}, None]
    assert states(tracker) == [(Outcome.COMPLETED, "")]


def test_lost_workers_are_replaced_and_then_given_up(start: Any, tracker: Tracker) -> None:
    groups = Groups(fail(ConnectionError("gone")), fail(MemoryError()), fail(ConnectionError("gone again")))
    training = start(groups)
    with pytest.raises(TrialFailedError, match=r"lost workers 2 times.*gone again"):
        training.next_report()
    assert groups.micro_batch_divisors == [1, 1, 2]
    ((outcome, reason),) = states(tracker)
    assert (outcome, reason.endswith("gone again")) == (Outcome.FAILED, True)


def test_an_error_that_would_come_again_ends_the_trial(start: Any, tracker: Tracker) -> None:
    training = start(Groups(fail(NonFiniteLossError("the loss is not finite at step 3"))))
    with pytest.raises(TrialFailedError, match="not finite at step 3"):
        training.next_report()
    assert states(tracker) == [(Outcome.FAILED, "the loss is not finite at step 3")]


def test_a_paused_trial_begins_again_only_when_its_earlier_process_has_left(start: Any, tracker: Tracker) -> None:
    earlier, groups = start(Groups(train_until_asked)), Groups(train(2))
    earlier.next_report()
    later, found = start(groups), queue.SimpleQueue[Any]()
    later.wait_for_earlier()
    threading.Thread(target=lambda: found.put(later.next_report()), daemon=True).start()
    time.sleep(2)
    assert groups.fits == 0
    earlier.leave()
    assert found.get(timeout=20) == {"epoch": 2}
    assert later.next_report() is None
    assert states(tracker) == [(Outcome.COMPLETED, "")]


@pytest.mark.parametrize("how", ["failed", "stopped"])
def test_what_the_workers_could_not_send_is_sent_before_the_run_is_closed(
    how: str, start: Any, tracker: Tracker, plan: Plan, asked: ExperimentRequest
) -> None:
    trial_id = plan.trials[0].trial_id
    leave = leave_unsent(Path(asked.storage_of(trial_id)), Path(asked.cache_root, "unsent"))

    def act(groups: Groups) -> None:
        groups.report({"epoch": 1})
        leave(groups)
        if how == "failed":
            fail(NonFiniteLossError("the loss is not finite"))(groups)
        train_until_asked(groups)

    training = start(Groups(act))
    assert training.next_report() == {"epoch": 1}
    if how == "failed":
        with pytest.raises(TrialFailedError):
            training.next_report()
    else:
        training.leave()
        stopped = StoppedRuns(asked, tracker)
        stopped.put(trial_id, "asha: at rung 25%")
        stopped.close()
    (record,) = tracker.trials()
    assert record.outcome.value == how
    assert [point.value for point in tracker.history(record.run_id, "epoch")] == [1.0]
    text = tracker.client.download_artifacts(record.run_id, "faults/x.txt")
    assert Path(text).read_text() == "1\n2\n"
    assert CheckpointStore(asked.storage_of(trial_id)).unsent() == []
    assert list(Path(asked.cache_root, "unsent").iterdir()) == []
