"""A trial survives the loss of a worker, an experiment survives being stopped; both in the same MLflow runs."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess

import psutil
import pytest
import torch
from mlflow.entities import Run

from effnet_cluster.effnet import EfficientNet, variant

from .conftest import COMMAND, Cli, assert_no_step_twice, wait_for
from .kills import checkpoints, compare, end_ranks, final_state, find_driver, titles_with_torch, train_workers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
NAME, EPOCHS = "recovery", 2
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
CALM = "undisturbed"
FIRST, SECOND = "digits-b0-silu-s0", "digits-b0-silu-s1"


def test_a_killed_worker_and_a_stopped_experiment_go_on_where_they_were(cli: Cli) -> None:
    args = ("--variants", "b0", "--workers", "2", "--epochs", str(EPOCHS))
    # The second epoch begins with what the first has left, which is less than a batch.
    args = (*args, "--checkpoint-steps", "5", "--precision", "float32", "--tail", "carry")
    command = [COMMAND, "submit", *args, "--seeds", "0,1", "--name", NAME]
    following = subprocess.Popen(command, cwd=cli.home, env=cli.env, stderr=subprocess.PIPE, text=True)
    head = psutil.Process(cli.services()["ray"]["pid"])

    # Ranks have the priority of what the user runs; Ray would give way to everything else on the machine.
    wait_for(lambda: bool(train_workers(head)), 120, "the ranks")
    assert {process.nice() for process in train_workers(head)} == {psutil.Process().nice()}

    # The ranks share what one process has imported; the driver does without torch.
    wait_for(lambda: len(checkpoints(cli, NAME, FIRST)) > 0, 120, "a checkpoint")
    assert len({process.ppid() for process in train_workers(head)}) == 1
    titles = titles_with_torch(head)
    assert any("RayTrainWorker" in title for title in titles)
    assert not any("orchestration.driver" in title for title in titles)

    # Ranks of the first trial are lost within epochs; then one is asked to leave.
    end_ranks(cli, NAME, FIRST, SIGNALS, random.Random(0))
    before = cli.trial_runs(NAME)[FIRST].info.run_id

    # Ctrl-C ends the command that follows, not the experiment.
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    assert following.returncode == 0
    assert f"logs {NAME} -f" in said
    assert "Traceback" not in said

    wait_for(lambda: cli.outcome(NAME, FIRST) == "completed", 240, "the end of the first trial")
    assert cli.trial_runs(NAME)[FIRST].info.run_id == before
    log = cli("logs", NAME).stdout
    # Said by the trial itself; what a rank says right before it is killed may be lost with it.
    assert f"[{FIRST}] workers ended (lost); going on from the last checkpoint" in log
    assert f"[{FIRST}] workers ended (preempted); going on from the last checkpoint" in log

    # The user stops the experiment in the second trial.
    wait_for(lambda: len(checkpoints(cli, NAME, SECOND)) > 0, 180, "a checkpoint of the second trial")
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
    # Tune's own state is not needed: it may be torn, or gone.
    shutil.rmtree(cli.home / "experiments" / NAME / "tune")
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
        assert_no_step_twice(cli.client(), run)
        assert epochs_told(cli, run) == list(range(1, EPOCHS + 1))
    assert runs[SECOND].data.metrics["run/workers"] == 1

    # What a checkpoint holds are the bare network's keys.
    with torch.device("meta"):
        keys = list(EfficientNet(variant("b0", num_classes=10)).state_dict())
    assert list(final_state(cli, NAME, SECOND)["model"]) == keys

    # What happened to the first trial left no trace: it is the run that nothing happened to, to the last bit.
    cli("submit", *args, "--name", CALM)
    assert compare(cli, CALM, NAME, FIRST) == []

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


def test_a_driver_that_is_killed_leaves_no_run_that_looks_alive(cli: Cli) -> None:
    name, trial = "driverless", "digits-b0-w0.25-d0.25-silu-s0"
    cli(
        *("submit", "--variants", "b0-w0.25-d0.25", "--epochs", "15", "--checkpoint-steps", "5"),
        *("--cpus-per-worker", "1", "--name", name, "--detach"),
    )
    wait_for(lambda: len(checkpoints(cli, name, trial)) > 0, 180, "a checkpoint")
    head = psutil.Process(cli.services()["ray"]["pid"])
    driver = find_driver(head)
    driver.kill()
    # Nobody looks at it with this command; MLflow's page is right all the same.
    wait_for(lambda: cli.outcome(name, trial) == "interrupted", 120, "the trial's run")
    wait_for(lambda: cli.parent_run(name).info.status == "FAILED", 60, "the sweep's run")
    assert cli.parent_run(name).data.tags["outcome.reason"] == "the driver was killed"
    wait_for(lambda: train_workers(head) == [], 60, "the end of the ranks")
    cli("stop", name)
    assert cli.parent_run(name).data.tags["outcome"] == "interrupted", "what was interrupted was not stopped"
    (row,) = (row for row in json.loads(cli("list", "--json").stdout) if row["experiment"] == name)
    assert row["state"] == "interrupted"
    cli("resume", name)
    assert cli.outcome(name, trial) == "completed"


def epochs_told(cli: Cli, run: Run) -> list[int]:
    return sorted(point.step for point in cli.client().get_metric_history(run.info.run_id, "val/top1"))
