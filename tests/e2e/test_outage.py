"""The tracking server hangs, dies and comes back while trials train: every point is there, and there once."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator

import psutil
import pytest

from .conftest import Cli, assert_no_step_twice, wait_for
from .kills import checkpoints, compare, curves

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]
VARIANT, CALM = "b0-w0.5-d0.5", "with-a-server"
EPOCHS = 15  # half a minute on a fast machine, four on a slow one


def submit(cli: Cli, name: str, seeds: str, epochs: int, *flags: str) -> None:
    cli(
        *("submit", "--variants", VARIANT, "--workers", "2", "--cpus-per-worker", "1", "--precision", "float32"),
        *("--checkpoint-steps", "5", "--epochs", str(epochs), "--seeds", seeds, "--name", name, *flags),
    )


def trial(seed: int) -> str:
    return f"digits-{VARIANT}-silu-s{seed}"


def server(cli: Cli) -> list[psutil.Process]:
    """The processes of the tracking server, asked for while it answers."""
    process = psutil.Process(cli.services()["mlflow"]["pid"])
    return [process, *process.children(recursive=True)]


def new_checkpoints(cli: Cli, name: str, seed: int, seconds: float) -> Iterator[float]:
    """Watch a trial for so long; yields the time from each new checkpoint to the next."""
    began = before = time.monotonic()
    latest: str | None = None
    while time.monotonic() - began < seconds:
        found = checkpoints(cli, name, trial(seed))
        if found and found[-1].name != latest:
            now = time.monotonic()
            if latest is not None:
                yield now - before
            latest, before = found[-1].name, now
        time.sleep(0.05)


def wait_for_end(cli: Cli, name: str, seeds: int) -> None:
    wait_for(lambda: cli.parent_run(name).data.tags["outcome"] != "running", 600 * seeds, "the sweep's end")
    outcomes = {trial_id: run.data.tags["outcome"] for trial_id, run in cli.trial_runs(name).items()}
    assert outcomes == {trial(seed): "completed" for seed in range(seeds)}


@pytest.fixture(scope="module")
def calm(cli: Cli) -> list[tuple[int, float]]:
    """The loss of a training to which nothing happened."""
    submit(cli, CALM, "0", EPOCHS)
    return curves(cli, cli.trial_runs(CALM)[trial(0)].info.run_id)["train/loss"]


@pytest.mark.long
@pytest.mark.parametrize(("trials", "kills"), [(1, 1), (4, 3)], ids=["once", "thrice"])
def test_a_server_that_is_killed_and_started_again_has_every_point_once(
    cli: Cli, calm: list[tuple[int, float]], trials: int, kills: int
) -> None:
    name = f"killed-{kills}"
    submit(cli, name, ",".join(map(str, range(trials))), EPOCHS, "--detach")
    for number in range(kills):
        wait_for(lambda number=number: bool(checkpoints(cli, name, trial(number))), 600, "a checkpoint")  # type: ignore[misc]
        for process in server(cli):
            process.send_signal(signal.SIGKILL)
        gaps = list(new_checkpoints(cli, name, number, 10))
        assert len(gaps) >= 2, "training stopped"
        cli("up", timeout=180)
    wait_for_end(cli, name, trials)
    for run in cli.trial_runs(name).values():
        assert_no_step_twice(cli.client(), run)
        assert [step for step, _ in curves(cli, run.info.run_id)["train/loss"]] == [step for step, _ in calm]
    assert compare(cli, CALM, name, trial(0)) == []
    log = cli("logs", name).stdout
    assert "training goes on, and what it logs is kept and sent later" in log
    assert "MLflow answers again" in log
    assert "workers ended" not in log
    assert cli("verify", name).returncode == 0


@pytest.mark.long
def test_a_server_that_hangs_for_five_minutes_delays_no_checkpoint_and_loses_no_point(cli: Cli) -> None:
    name = "hangs"
    submit(cli, name, "0", 10_000, "--detach")
    wait_for(lambda: bool(checkpoints(cli, name, trial(0))), 180, "a checkpoint")
    usual = max(new_checkpoints(cli, name, 0, 60))
    processes = server(cli)
    for process in processes:
        process.suspend()
    began = time.time()
    try:
        gaps = list(new_checkpoints(cli, name, 0, 300))
    finally:
        for process in processes:
            process.resume()
    ended = time.time()
    assert sum(gaps) > 290, "training stopped"
    assert max(gaps) < usual + 3  # one second, on a machine three times as slow
    wait_for(lambda: not list((cli.home / "cache" / "unsent").iterdir()), 120, "everything to be sent")
    list(new_checkpoints(cli, name, 0, 60))
    cli("stop", name)
    run = cli.trial_runs(name)[trial(0)]
    assert_no_step_twice(cli.client(), run)
    steps = [step for step, _ in curves(cli, run.info.run_id)["train/loss"]]
    assert steps == list(range(steps[0], steps[-1] + 1, steps[1] - steps[0])), "a point is missing"
    # How fast it was while the server was away, and while it was not.
    points = cli.client().get_metric_history(run.info.run_id, "time/images_per_second")
    away = [point.value for point in points if began < point.timestamp / 1000 < ended]
    there = [point.value for point in points if not began < point.timestamp / 1000 < ended]
    ratio = statistics.mean(away) / statistics.mean(there)
    print(f"checkpoints: longest gap {usual:.2f} s, away {max(gaps):.2f} s; images/s away to there: {ratio:.3f}")
    assert ratio > 0.8  # others use the machine too
    assert "workers ended" not in cli("logs", name).stdout
