"""The same training under other launchers: torchrun, and Ray Train's controller where Ray promises it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effnet_cluster.orchestration.training.checkpoint import decode

from ..differences import differences
from .conftest import DEMO, DEMO_EPOCHS, DEMO_VARIANTS, Cli
from .kills import final_state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
VARIANT = DEMO_VARIANTS[0]
TRIAL = f"digits-{VARIANT}-silu-s0"


def test_torchrun_trains_a_trials_job_to_the_same_bits(
    cli: Cli, demo: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    job = cli.home / "experiments" / DEMO / "trials" / TRIAL / "job.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    module = ["-m", "effnet_cluster.orchestration.training", str(job), "--storage", str(tmp_path)]
    threads = {"OMP_NUM_THREADS": str(json.loads(job.read_text())["execution"]["cpus_per_worker"])}
    done = subprocess.run(
        [*torchrun, *module], env={**os.environ, **threads}, capture_output=True, text=True, timeout=1600, check=False
    )
    assert done.returncode == 0, done.stderr
    file = sorted((tmp_path / "checkpoints").glob("*.pt"))[-1]
    ours, theirs = final_state(cli, DEMO, TRIAL), decode(file.read_bytes(), str(file), torch.device("cpu"))
    for part in ("model", "optimizer", "ema"):
        assert differences(ours[part], theirs[part], part) == []
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    run = cli.trial_runs(DEMO)[TRIAL].info.run_id
    for name, kind in (("val/top1", "epoch"), ("train/epoch_loss", "epoch"), ("train/loss", "step")):
        told = {row["number"]: row[name] for row in rows if row["kind"] == kind and name in row}
        assert told == {point.step: point.value for point in cli.client().get_metric_history(run, name)}
        assert len(told) >= DEMO_EPOCHS


def test_a_trial_runs_without_rays_insides(cli: Cli) -> None:
    name = "plain"
    cli("submit", "--variants", VARIANT, "--epochs", "1", "--workers", "2", "--controller", "actor", "--name", name)
    run = cli.trial_runs(name)[TRIAL]
    assert run.data.tags["outcome"] == "completed"
    assert (run.data.metrics["epoch"], run.data.metrics["run/workers"]) == (1, 2)
    assert cli("verify", name, "--no-shards").returncode == 0
    told = (cli.home / "experiments" / name / "tune" / name / TRIAL / "result.json").read_text().splitlines()
    assert [json.loads(line)["val/top1"] for line in told] == [run.data.metrics["val/top1"]]
