"""Kills ranks of a running trial at random moments; `python -m tests.e2e.kills 20` does it 20 times and compares.

The moment is random within the first second and a half after each new checkpoint, the rank is random, the signal is
SIGKILL. What must come out is the run that nothing happened to, to the last bit.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from effnet_cluster.orchestration.training.checkpoint import decode

from ..differences import differences
from .conftest import Cli, wait_for

_MAX_DELAY_S = 1.5
# Of digits and two workers on a fast machine: in the longest delay and up to the next checkpoint after it.
_KILLS_AN_EPOCH = 2.5


def train_workers(head: psutil.Process) -> list[psutil.Process]:
    """The DDP workers below our own Ray head, and nobody else's."""
    found = []
    for process in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()[:1]):
                found.append(process)
    return found


def find_driver(head: psutil.Process) -> psutil.Process:
    """The driver below our own Ray head; there must be one alone."""
    found = []
    for process in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("python") and "effnet_cluster.orchestration.driver" in process.cmdline():
                found.append(process)
    (driver,) = found
    return driver


def titles_with_torch(head: psutil.Process) -> list[str]:
    """The titles of the processes below our own Ray head that have loaded torch."""
    found = []
    for process in head.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any("libtorch" in mapped.path for mapped in process.memory_maps()):
                found.append(" ".join(process.cmdline()))
    return found


def checkpoints(cli: Cli, experiment: str, trial: str) -> list[Path]:
    """The checkpoints of a trial, the latest last."""
    return sorted((cli.home / "experiments" / experiment / "trials" / trial / "checkpoints").glob("*.pt"))


def end_ranks(cli: Cli, experiment: str, trial: str, signals: Sequence[int], chance: random.Random) -> list[str]:
    """Send each signal to some rank after a new checkpoint; returns the names of those checkpoints."""
    head = psutil.Process(cli.services()["ray"]["pid"])
    followed: list[str] = []
    latest, ended = "", set[int]()

    def advanced() -> bool:
        outcome = cli.outcome(experiment, trial)
        assert outcome == "running", (
            f"{outcome} after {len(followed)} of {len(signals)} signals: more epochs are needed"
        )
        found = checkpoints(cli, experiment, trial)
        return bool(found) and found[-1].name > latest and bool(train_workers(head))

    def gone() -> bool:
        return ended.isdisjoint(process.pid for process in train_workers(head))

    for number in signals:
        # What a group saves between being chosen and its end is no sign of the next one, which may not listen yet.
        wait_for(gone, 120, "the end of the ranks that got a signal")
        latest = checkpoints(cli, experiment, trial)[-1].name if ended else ""
        wait_for(advanced, 180, f"a checkpoint after {latest}")
        followed.append(checkpoints(cli, experiment, trial)[-1].name)
        time.sleep(chance.uniform(0, _MAX_DELAY_S))
        ranks = train_workers(head)
        ended = {process.pid for process in ranks}
        os.kill(chance.choice(ranks).pid, number)
    return followed


def final_state(cli: Cli, experiment: str, trial: str) -> dict[str, Any]:
    """What the last checkpoint of a finished trial holds."""
    file = checkpoints(cli, experiment, trial)[-1]
    return decode(file.read_bytes(), str(file), torch.device("cpu"))


def curves(cli: Cli, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run that does not measure time, by step."""
    client = cli.client()
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith(("time/", "system/"))]
    return {n: sorted((p.step, p.value) for p in client.get_metric_history(run_id, n)) for n in names}


def compare(cli: Cli, calm: str, killed: str, trial: str) -> list[str]:
    """What differs between two experiments' runs of the same trial: weights, optimizer, curves."""
    before, after = (final_state(cli, name, trial) for name in (calm, killed))
    parts = ("model", "optimizer", "ema")
    found = [line for part in parts for line in differences(before[part], after[part], part)]
    first, second = (curves(cli, cli.trial_runs(name)[trial].info.run_id) for name in (calm, killed))
    return found + [f"curve {name}" for name in first if first[name] != second.get(name)]


def main(kills: int) -> None:
    arguments = ["submit", "--variants", "b0", "--workers", "2", "--checkpoint-steps", "5"]
    arguments += ["--epochs", str(math.ceil(kills / _KILLS_AN_EPOCH) + 1)]
    arguments += ["--max-failures", str(kills), *sys.argv[2:]]
    trial = "digits-b0-silu-s0"
    cli = Cli(Path(tempfile.mkdtemp()))
    cli("up", timeout=180)
    try:
        cli(*arguments, "--name", "calm")
        started = time.monotonic()
        cli(*arguments, "--name", "killed", "--detach")
        followed = end_ranks(cli, "killed", trial, [signal.SIGKILL] * kills, random.Random(kills))
        wait_for(lambda: cli.outcome("killed", trial) != "running", 600, "the end")
        print(f"{len(followed)} kills after {', '.join(followed)}; {time.monotonic() - started:.0f} s")
        print(f"differences: {compare(cli, 'calm', 'killed', trial) or 'none'}")
        print(cli("verify", "killed", check=False))
        print(cli("logs", "killed").stdout)
    finally:
        cli("down", "--force", timeout=180)


if __name__ == "__main__":
    main(int(sys.argv[1]))
