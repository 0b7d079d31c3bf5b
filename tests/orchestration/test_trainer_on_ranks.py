"""The trainer on two gloo ranks, one of which goes wrong: all ranks end alike, and none waits for another."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet_cluster.datasets import EpochOrder, Manifest

from . import trainer_ranks
from .trainer_ranks import BAD_BATCH, EPOCHS, WORLD
from .trainings import BATCH, few_digits

ROOT = Path(__file__).parents[2]
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_digits(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def results(digits: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each rank saw of each scenario: {scenario: [of rank 0, of rank 1]}."""
    out = tmp_path_factory.mktemp("trainer_ranks")
    command = [sys.executable, "-m", trainer_ranks.__name__, str(digits.root), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    names = [scenario.__name__ for scenario in trainer_ranks.SCENARIOS]
    return {name: [torch.load(out / f"{name}-{rank}.pt", weights_only=True) for rank in range(WORLD)] for name in names}


@pytest.mark.parametrize("scenario", ["bad_loss", "bad_micro_batch"])
def test_every_rank_names_the_batch_in_which_one_ranks_loss_became_nan(
    results: Results, digits: Manifest, scenario: str
) -> None:
    """Rank 0's own loss is NaN one batch later, when the gradients of the bad one have reached its weights."""
    ids = EpochOrder(digits.split("train").shard_samples, seed=0).sample_ids(0)
    bad = [str(number) for number in ids[BAD_BATCH * BATCH : (BAD_BATCH + 1) * BATCH]]
    first, other = results[scenario]
    assert first["kind"] == other["kind"] == "NonFiniteLossError"
    assert first["message"] == other["message"]
    assert f"at step {BAD_BATCH} (epoch 1, batch {BAD_BATCH}, samples {', '.join(bad)})" in first["message"]
    assert first["texts"] == {f"faults/step-{BAD_BATCH}-sample-ids.txt": "\n".join(bad) + "\n"}
    assert other["texts"] == {}


def test_equal_ranks_train_to_the_end(results: Results) -> None:
    first, other = results["nothing"]
    assert first["kind"] == other["kind"] == ""
    assert first["epochs"] == list(range(1, EPOCHS + 1))
    assert other["epochs"] == []


@pytest.mark.parametrize(
    ("scenario", "named"),
    [
        ("missed_step", "model"),
        ("missed_update_of_the_average", "averaged model"),
        ("missed_statistics_of_the_average", "averaged model"),
    ],
)
def test_what_one_rank_missed_ends_the_training_before_it_is_evaluated(
    results: Results, scenario: str, named: str
) -> None:
    told = f"after epoch 1 the {named} of rank 1 differs from that of rank 0"
    assert [(rank["kind"], rank["message"]) for rank in results[scenario]] == [("RanksDisagreeError", told)] * WORLD
    assert [rank["epochs"] for rank in results[scenario]] == [[]] * WORLD


@pytest.mark.parametrize("scenario", ["bad_loss", "asked_to_leave", "missed_step"])
def test_no_rank_has_ended_before_rank_0_has_said_its_last_words(results: Results, scenario: str) -> None:
    """Whoever started the ranks ends them all when one has ended."""
    first, other = results[scenario]
    assert first["kind"] == other["kind"] != ""
    assert first["closed"] < other["ended"]
