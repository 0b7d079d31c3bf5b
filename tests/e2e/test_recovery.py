"""A trial survives the loss of a worker, an experiment survives being stopped; both in the same MLflow runs."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest
import torch

from effnet_cluster.effnet import EfficientNet, variant

from .conftest import COMMAND, Cli, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
NAME, EPOCHS = "recovery", 3
FIRST, SECOND = "digits-b0-silu-s0", "digits-b0-silu-s1"


def test_a_killed_worker_and_a_stopped_experiment_go_on_where_they_were(cli: Cli) -> None:
    args = ("--variants", "b0", "--seeds", "0,1", "--workers", "2", "--epochs", str(EPOCHS), "--name", NAME)
    args = (*args, "--checkpoint-activations")
    command = [COMMAND, "submit", *args]
    following = subprocess.Popen(command, cwd=cli.home, env=cli.env, stderr=subprocess.PIPE, text=True)
    head = psutil.Process(cli.services()["ray"]["pid"])
    wait_for(lambda: epochs_logged(cli, FIRST) == 1, 180, "the first epoch of the first trial")
    before = cli.trial_runs(NAME)[FIRST].info.run_id

    # A rank is lost in the second epoch of the first trial, as soon as the first has left its checkpoint.
    snapshot = cli.home / "experiments" / NAME / "trials" / FIRST / "checkpoint_manager_snapshot.json"
    wait_for(snapshot.exists, 30, "the first checkpoint")
    killed = train_workers(head)
    assert len(killed) == 2
    os.kill(killed[-1].pid, signal.SIGKILL)

    # Ctrl-C ends the command that follows, not the experiment.
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    assert following.returncode == 0
    assert f"logs {NAME} -f" in said
    assert "Traceback" not in said

    wait_for(lambda: outcome(cli, FIRST) == "completed", 240, "the end of the first trial")
    assert cli.trial_runs(NAME)[FIRST].info.run_id == before
    assert f"[{FIRST}] resumed after epoch 1" in cli("logs", NAME).stdout

    # The user stops the experiment in the second trial.
    wait_for(lambda: epochs_logged(cli, SECOND) >= 1, 180, "the first epoch of the second trial")
    refused = cli("down", check=False)
    assert refused.returncode == 2
    assert NAME in refused.stderr
    cli("stop", NAME)
    stopped = cli.trial_runs(NAME)
    assert stopped[SECOND].info.status == "KILLED"
    assert stopped[SECOND].data.tags["outcome"] == "cancelled"
    assert stopped[FIRST].info.status == "FINISHED"
    assert cli.parent_run(NAME).data.tags["outcome"] == "cancelled"
    assert train_workers(head) == []

    # And goes on with it, on another number of workers, which read ahead in processes of their own.
    resumed = cli("resume", NAME, "--workers", "1", "--loader-workers", "1")
    assert FIRST in resumed.stdout
    runs = cli.trial_runs(NAME)
    assert {trial: run.info.run_id for trial, run in runs.items()} == {t: r.info.run_id for t, r in stopped.items()}
    log = cli("logs", NAME).stdout
    assert f"[{SECOND}] resumed after epoch" in log
    assert f"[{FIRST}]" not in log, "a finished trial ran again"
    for run in (*runs.values(), cli.parent_run(NAME)):
        assert run.info.status == "FINISHED"
        assert run.data.tags["outcome"] == "completed"
    for run in runs.values():
        assert_no_step_twice(cli, run.info.run_id)
    assert runs[SECOND].data.metrics["run/workers"] == 1

    # What a checkpoint holds are the bare network's keys.
    states = sorted((cli.home / "experiments" / NAME / "trials" / SECOND).rglob("state.pt"))
    with torch.device("meta"):
        keys = list(EfficientNet(variant("b0", num_classes=10)).state_dict())
    assert list(torch.load(states[0], weights_only=True)["model"]) == keys

    # All of it was trained on what the manifest says; a shard that has changed since is found.
    assert cli("verify", NAME).returncode == 0
    shard = sorted((cli.home / "cache" / "digits-v1" / "train").glob("*.tar"))[1]
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
        found = cli("verify", NAME, check=False)
    finally:
        shard.write_bytes(content)
    assert found.returncode == 1
    assert f"error: train/{shard.name}: sha256 " in found.stderr
    assert f"read in epochs 1 to {EPOCHS}" in found.stderr


def assert_no_step_twice(cli: Cli, run_id: str) -> None:
    client = cli.client()
    for name in client.get_run(run_id).data.metrics:
        steps = [point.step for point in client.get_metric_history(run_id, name)]
        assert len(steps) == len(set(steps)), f"{name} has a step twice"
    epochs = [point.step for point in client.get_metric_history(run_id, "val/top1")]
    assert sorted(epochs) == list(range(1, EPOCHS + 1))


def epochs_logged(cli: Cli, trial: str) -> int:
    run = cli.trial_runs(NAME).get(trial)
    return int(run.data.metrics.get("epoch", 0)) if run else 0


def outcome(cli: Cli, trial: str) -> str:
    run = cli.trial_runs(NAME).get(trial)
    return run.data.tags["outcome"] if run else ""


def train_workers(head: psutil.Process) -> list[psutil.Process]:
    """The DDP workers below our own Ray head, and nobody else's."""
    return [p for p in head.children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline()[:1])]
