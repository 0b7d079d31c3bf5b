"""A training's metrics, texts and model on a real MLflow server, also when its process is lost on the way."""

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking import outbox
from effnet_cluster.orchestration.tracking.models import log_model
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.tracking.sink import MlflowSink
from effnet_cluster.orchestration.tracking.trained import from_mlflow
from effnet_cluster.orchestration.training import metrics, trainer
from effnet_cluster.orchestration.training.classifier import ServedClassifier
from effnet_cluster.orchestration.training.collectives import lone_rank
from effnet_cluster.orchestration.training.errors import PreemptedError
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.metrics import StepPoint
from effnet_cluster.orchestration.training.model_facts import ModelFacts
from effnet_cluster.orchestration.training.sink import Sink
from effnet_cluster.orchestration.training.trainer import Trainer
from effnet_cluster.orchestration.training.world import World

from .conftest import ensure_sweep, job_of

pytestmark = pytest.mark.usefixtures("one_thread")
Curve = list[tuple[int, float]]


@pytest.fixture(scope="module")
def plan(digits: Manifest) -> Plan:
    fields = {"name": "x", "variants": "b0", "data": str(digits.location), "image_size": 8, "recipe": {"epochs": 2}}
    return make_plan(ExperimentSpec.parse(fields), digits)


@pytest.fixture
def run_id(tracker: Tracker, plan: Plan) -> str:
    return tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))


@pytest.fixture
def sink(tracker: Tracker, run_id: str, tmp_path: Path) -> MlflowSink:
    return MlflowSink(tracker.uri, tracker.experiment, tracker.uid, run_id, tmp_path / "unsent")


@pytest.fixture
def restarted(sink: MlflowSink) -> Callable[[], MlflowSink]:
    """The sink as another process has it, whatever this one has done with its own."""
    return lambda: pickle.loads(pickle.dumps(sink))


def curve(sink: MlflowSink, name: str, *, sent: bool = True) -> Curve:
    """What the server has; `sent`: once the sink has nothing left to send."""
    if sent:
        sink._outbox.drain(60)
    points = MlflowClient(sink.tracking_uri).get_metric_history(sink.run_id, name)
    return sorted((point.step, point.value) for point in points)


def points(first: int, last: int) -> list[StepPoint]:
    return [StepPoint(step, 1 / step, 0.5 / step) for step in range(first, last + 1)]


def text(sink: MlflowSink, name: str) -> str:
    sink._outbox.drain(60)
    return Path(MlflowClient(sink.tracking_uri).download_artifacts(sink.run_id, name)).read_text()


def test_it_is_what_the_trainer_expects(sink: MlflowSink) -> None:
    checked: Sink = sink  # by mypy
    assert checked is sink


def test_steps_reach_the_server_as_they_come(sink: MlflowSink) -> None:
    sink.log_steps(points(1, 3))
    assert curve(sink, "train/loss") == [(step, 1 / step) for step in (1, 2, 3)]
    sink.log_steps(points(4, 4))
    assert curve(sink, "train/loss") == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert curve(sink, "train/lr") == [(step, 0.5 / step) for step in (1, 2, 3, 4)]


def test_a_restart_logs_no_step_twice_and_leaves_none_out(
    sink: MlflowSink, restarted: Callable[[], MlflowSink]
) -> None:
    sink.log_steps(points(1, 6))
    assert len(curve(sink, "train/loss")) == 6
    again = restarted()
    again.log_steps(points(4, 5))  # from a checkpoint after step 3; all that comes is known
    again.log_steps(points(6, 8))  # known in part
    again._outbox.drain(60)
    sink.log_steps(points(9, 9))
    assert curve(sink, "train/loss") == [(step, 1 / step) for step in range(1, 10)]
    assert curve(sink, "train/lr") == [(step, 0.5 / step) for step in range(1, 10)]


def test_a_restart_logs_no_epoch_twice_and_adds_what_is_new_in_it(
    sink: MlflowSink, restarted: Callable[[], MlflowSink]
) -> None:
    sink.log_epoch(1, {metrics.CORRUPT: 2.0})
    sink.log_epoch(1, {metrics.TOP1: 0.5, metrics.EPOCH: 1.0})
    sink._outbox.drain(60)
    again = restarted()
    for epoch in (1, 2):
        again.log_epoch(epoch, {metrics.TOP1: 0.5 * epoch, metrics.EPOCH: float(epoch), metrics.TOP5: 0.75})
    again._outbox.drain(60)
    assert curve(sink, metrics.TOP1) == [(1, 0.5), (2, 1.0)]
    assert curve(sink, metrics.EPOCH) == [(1, 1.0), (2, 2.0)]
    assert curve(sink, metrics.TOP5) == [(1, 0.75), (2, 0.75)]
    assert curve(sink, metrics.CORRUPT) == [(1, 2.0)]


def test_a_text_replaces_the_earlier_one(sink: MlflowSink, restarted: Callable[[], MlflowSink]) -> None:
    sink.log_text("corrupt/epoch-001.txt", "one\n")
    assert text(sink, "corrupt/epoch-001.txt") == "one\n"
    again = restarted()
    again.log_text("corrupt/epoch-001.txt", "zwei, drei ≥ 2\n")
    assert text(again, "corrupt/epoch-001.txt") == "zwei, drei ≥ 2\n"


def test_pickled_it_is_its_addresses_alone_before_and_after_use(sink: MlflowSink) -> None:
    before = pickle.dumps(sink)
    sink.log_steps(points(1, 2))
    sink.log_text("a.txt", "a")
    assert pickle.dumps(sink) == before
    assert pickle.loads(before) == sink
    assert len(before) < 500


def test_the_model_is_read_back_with_its_facts(sink: MlflowSink, tracker: Tracker) -> None:
    torch.manual_seed(0)
    config = variant("b0", width=0.25, depth=0.25, num_classes=3)
    network = EfficientNet(config).eval()
    facts = ModelFacts(config, ("a", "b", "c"), 16, 18)
    model = ServedClassifier(network, facts.image_size, facts.eval_resize, facts.normalization).eval()
    example = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 3), dtype=np.uint8)
    log_model(tracker, sink.run_id, model, example, 0.75, facts.to_dict())
    (logged,) = MlflowClient(tracker.uri).search_logged_models([tracker.experiment_id])
    assert {metric.key: metric.value for metric in logged.metrics} == {metrics.MODEL_TOP1: 0.75}
    (record,) = tracker.trials()
    assert record.model_uri is not None
    trained = from_mlflow(tracker.uri, record.model_uri)
    assert trained.facts == facts
    images = torch.from_numpy(example)
    with torch.no_grad():
        torch.testing.assert_close(trained.served()(images), model(images), atol=0, rtol=0)


def train(job: TrainingJob, sink: Sink, should_stop: Callable[[], bool] = lambda: False) -> None:
    with lone_rank():
        Trainer(job, World(0, 1, 1, torch.device("cpu")), sink, should_stop=should_stop).run()


class Lost(Exception):
    """A process that is no more."""


def lose_before(step: int) -> Callable[[], bool]:
    """For `should_stop`, which a lone rank asks at every step."""
    steps = iter(range(step))

    def count() -> bool:
        if next(steps, None) is None:
            raise Lost
        return False

    return count


def test_the_curves_of_a_training_that_was_lost_and_goes_on_are_those_of_one_that_was_not(
    tracker: Tracker, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live points reach the server before the checkpoint: what is computed again after a crash is not logged again."""
    monkeypatch.setattr(trainer, "_LIVE_S", 0.0)
    (trial,) = plan.trials
    small = trial.model_copy(update={"model": variant("b0", width=0.25, depth=0.25, num_classes=10)})
    sweep_id = ensure_sweep(tracker, plan)
    curves = []
    for name in ("whole", "parts"):
        execution = plan.spec.execution.model_copy(update={"device": "cpu", "checkpoint_steps": 20})
        storage = tmp_path / name
        job = job_of(plan).model_copy(
            update={
                "trial": small.model_copy(update={"trial_id": name}),
                "execution": execution,
                "storage": str(storage),
                "cache_root": str(tmp_path / "cache"),
            }
        )
        run_id = tracker.ensure_trial(job, sweep_id)
        sink = MlflowSink(tracker.uri, tracker.experiment, tracker.uid, run_id, tmp_path / "unsent")
        if name == "parts":
            with pytest.raises(Lost):
                train(job, sink, lose_before(35))
            assert [file.name for file in storage.rglob("*.pt")] == ["epoch-000000-batch-000000020.pt"]
            assert max(step for step, _ in curve(sink, metrics.STEP_LOSS, sent=False)) > 30
            sink = pickle.loads(pickle.dumps(sink))
        train(job, sink)
        curves.append(
            {name: curve(sink, name, sent=False) for name in (metrics.STEP_LOSS, metrics.LEARNING_RATE, metrics.TOP1)}
        )
    whole, parts = curves
    assert whole == parts
    assert [step for step, _ in whole[metrics.STEP_LOSS]] == list(range(2, 90, 2))
    assert [step for step, _ in whole[metrics.TOP1]] == [1, 2]


def test_points_are_there_while_the_epoch_goes_on(
    sink: MlflowSink, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the next checkpoint: the whole epoch has none."""
    monkeypatch.setattr(trainer, "_LIVE_S", 0.05)
    (trial,) = plan.trials
    small = trial.model_copy(update={"model": variant("b0", width=0.25, depth=0.25, num_classes=10)})
    updates = {"trial": small, "storage": str(tmp_path), "cache_root": str(tmp_path / "cache")}
    job = job_of(plan).model_copy(update=updates)
    seen: list[int] = []

    def look() -> bool:
        """Called at every step."""
        seen.append(len(curve(sink, metrics.STEP_LOSS, sent=False)))
        return len(seen) == trial.batches_per_epoch

    with pytest.raises(PreemptedError):
        train(job, sink, look)
    assert len(set(seen)) > 4, "the curve did not grow within the epoch"


def test_a_server_that_hangs_neither_stops_the_training_nor_gets_a_point_twice(
    tracker: Tracker, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes requests while it is stopped, which the client gives up, and answers all of them when it goes on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 1.0)
    monkeypatch.setattr(trainer, "_LIVE_S", 0.0)
    (trial,) = plan.trials
    small = trial.model_copy(update={"model": variant("b0", width=0.25, depth=0.25, num_classes=10)})
    updates = {"trial": small, "storage": str(tmp_path), "cache_root": str(tmp_path / "cache")}
    job = job_of(plan).model_copy(update=updates)
    run_id = tracker.ensure_trial(job, ensure_sweep(tracker, plan))
    sink = MlflowSink(tracker.uri, tracker.experiment, tracker.uid, run_id, tmp_path / "unsent")
    server = server_of(tracker.uri)
    asked, kept = 0, list[Any]()

    def hang() -> bool:
        """Called at every step."""
        nonlocal asked
        asked += 1
        if asked == 10:
            for process in server:
                process.suspend()
        if asked == 60:
            time.sleep(3)  # longer than the client waits for an answer
            kept.extend(sink.unsent())
            for process in server:
                process.resume()
        return False

    train(job, sink, hang)
    assert kept
    losses = curve(sink, metrics.STEP_LOSS)
    assert [step for step, _ in losses] == list(range(2, 90, 2))
    assert [step for step, _ in curve(sink, metrics.TOP1)] == [1, 2]
    assert sink.unsent() == []


def server_of(uri: str) -> list[psutil.Process]:
    """The processes of the server that this test process has started."""
    port = uri.rpartition(":")[2]
    (head,) = (process for process in psutil.Process().children() if port in process.cmdline())
    return [head, *head.children(recursive=True)]
