"""Ray Tune's own schedulers over trials that only pretend to train: who starts, waits, pauses and is stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from effnet_cluster.datasets import DIGITS, open_dataset
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.running.nodes import alive_nodes
from effnet_cluster.orchestration.running.schedulers import PERCENT
from effnet_cluster.orchestration.running.sweep import run_sweep
from effnet_cluster.orchestration.search.sources import PlannedSource
from effnet_cluster.orchestration.sizing.allocation import share_out
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.training.metrics import EPOCH, TOP1

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
EPOCHS, TRIALS = 4, 5
LRS = [0.003, 0.001, 0.005, 0.002, 0.004]


class Pretended(tune.Trainable):  # type: ignore[misc]
    """A trial whose top-1 grows with its learning rate; it notes what happens to it in a file."""

    def setup(self, config: dict[str, Any], context: Any) -> None:
        self._lr, self._epoch, self._file = config["lr"], 0, Path(context.notes, self.trial_name)
        self._fails = context.fails
        self._note("starts")

    def step(self) -> dict[str, Any]:
        if f"-lr{self._fails}-" in self.trial_name and self._epoch == 1:
            raise RuntimeError("lost")
        if self._epoch == EPOCHS:
            return {RESULT_DUPLICATE: True}
        self._epoch += 1
        self._note("trains", epoch=self._epoch, lr=self._lr)
        time.sleep(0.1)
        percent = 100 * self._epoch / EPOCHS
        return {EPOCH: self._epoch, PERCENT: percent, TOP1: self._lr * percent}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"epoch": self._epoch, "trial": self.trial_name}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._epoch = checkpoint["epoch"]
        self._note("goes on", donor=checkpoint["trial"])

    def cleanup(self) -> None:
        self._note("leaves")

    def _note(self, what: str, **more: Any) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")


class Runs:
    """Stands in for the tracker: what the driver tells MLflow."""

    def __init__(self) -> None:
        self.stopped: dict[str, str] = {}

    def trials(self) -> list[Any]:
        return []

    def wait_until_left(self, trial_id: str, seconds: float) -> str:
        return trial_id

    def finish(self, run_id: str, outcome: Outcome, reason: str) -> None:
        assert outcome is Outcome.STOPPED
        self.stopped[run_id] = reason


@pytest.fixture(scope="module")
def two_cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield
    ray.shutdown()


def sweep(
    scheduler: str, tmp_path: Path, fails: float | None = None, **more: Any
) -> tuple[dict[str, list[dict[str, Any]]], Runs]:
    """Run five trials, two at a time, of which the one with a learning rate of `fails` fails in its second epoch.

    Returns:
        What happened to each, and what was stopped.
    """
    manifest = open_dataset(DIGITS, tmp_path / "cache", None, typed=False)
    fields = {"variants": "b0", "recipe": {"epochs": EPOCHS, "lr": LRS}, "scheduling": {"name": scheduler, **more}}
    plan = make_plan(ExperimentSpec.parse({"name": "x", **fields}), manifest)
    request = ExperimentRequest(
        uid="u", job="x", plan=plan, tracking_uri="", storage=str(tmp_path / "storage"), cache_root=str(tmp_path)
    )
    notes = tmp_path / "notes"
    notes.mkdir()
    shares = share_out(alive_nodes(), plan.spec.execution, plan.trials)
    context: Any = SimpleNamespace(request=request, shares=shares, notes=str(notes), fails=fails)
    runs: Any = Runs()
    failed = run_sweep(context, runs, PlannedSource(plan.trials), Pretended)
    assert [plan.trial(name).recipe.lr for name in failed] == ([] if fails is None else [fails])
    found = {file.name: [json.loads(line) for line in file.read_text().splitlines()] for file in notes.iterdir()}
    assert set(found) == {trial.trial_id for trial in plan.trials}
    assert most_at_once(found) <= 2
    return found, runs


def most_at_once(found: dict[str, list[dict[str, Any]]]) -> int:
    """How many trials had a place at a time: from a start to a leave, or to the end of the last epoch."""
    changes = []
    for notes in found.values():
        placed = False
        for note in notes:
            leaves = note["what"] == "leaves" or note.get("epoch") == EPOCHS
            if placed == leaves and (leaves or note["what"] == "starts"):
                placed = not placed
                changes.append((note["at"], 1 if placed else -1))
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def epochs(notes: list[dict[str, Any]]) -> list[int]:
    return [note["epoch"] for note in notes if note["what"] == "trains"]


def test_asha_stops_trials_with_a_reason_and_the_others_train_to_their_end(two_cores: None, tmp_path: Path) -> None:
    found, runs = sweep("asha", tmp_path, min_share=0.25, reduction=2)
    assert 0 < len(runs.stopped) < TRIALS
    for name, notes in found.items():
        assert epochs(notes) == list(range(1, len(epochs(notes)) + 1))
        assert (len(epochs(notes)) < EPOCHS) == (name in runs.stopped)
        assert [note["what"] for note in notes].count("starts") == 1
    assert all(reason.startswith("asha: at rung ") for reason in runs.stopped.values())


def test_hyperband_pauses_trials_until_all_have_begun_and_none_is_lost(two_cores: None, tmp_path: Path) -> None:
    found, runs = sweep("hyperband", tmp_path)
    for name, notes in found.items():
        assert epochs(notes) == list(range(1, len(epochs(notes)) + 1)), "an epoch was lost or repeated"
        assert (len(epochs(notes)) < EPOCHS) == (name in runs.stopped)
    assert any(note["what"] == "goes on" for notes in found.values() for note in notes)


def test_trials_that_wait_for_one_that_fails_go_on_without_it(two_cores: None, tmp_path: Path) -> None:
    last = LRS[-1]  # all others are paused by then
    found, runs = sweep("pbt", tmp_path, last, min_share=0.3)
    ended = {name for name, notes in found.items() if epochs(notes)[-1] == EPOCHS}
    assert len(ended | runs.stopped.keys()) == TRIALS - 1


def test_pbt_gives_every_trial_its_turn_and_lets_bad_ones_take_over_good_weights(
    two_cores: None, tmp_path: Path
) -> None:
    found, runs = sweep("pbt", tmp_path, min_share=0.3, exchanged=0.4)
    assert runs.stopped == {}
    assert all(epochs(notes)[-1] == EPOCHS for notes in found.values())
    # All have begun before any has gone past its first exchange.
    begun = max(notes[0]["at"] for notes in found.values())
    second = min(note["at"] for notes in found.values() for note in notes if note.get("epoch", 0) > 2)
    assert begun < second
    donors = {(name, note["donor"]) for name, notes in found.items() for note in notes if note["what"] == "goes on"}
    taken = {pair for pair in donors if pair[0] != pair[1]}
    assert taken, "nobody took over another one's weights"
    lrs = {name: notes[1]["lr"] for name, notes in found.items()}
    assert all(lrs[donor] > lrs[name] for name, donor in taken)
    changed = {note["lr"] for notes in found.values() for note in notes if "lr" in note}
    assert changed <= set(LRS), "a list's values are the only ones"
