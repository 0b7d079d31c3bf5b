"""The commands for CUDA machines, at tiny sizes on the CPU: their checks can fail, and their tables have all rows."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from effnet_cluster.benchmarks.gpu import target
from effnet_cluster.benchmarks.gpu.__main__ import main
from effnet_cluster.benchmarks.gpu.check import Check, Outcome, require, run_checks
from effnet_cluster.benchmarks.gpu.contestant import finds_memory
from effnet_cluster.benchmarks.gpu.numerics import STEPS, Case, compare
from effnet_cluster.benchmarks.gpu.steps import contests
from effnet_cluster.benchmarks.gpu.target import Target

TINY = ("--device", "cpu", "--tiny")


@pytest.fixture
def here(tmp_path: Path) -> Target:
    return Target(torch.device("cpu"), True, tmp_path)


def outcomes(checks: list[Check], target: Target, processes: int = 1) -> dict[str, Outcome]:
    found: list[Outcome] = []
    run_checks(checks, target, processes, found.append)
    return {outcome.name: outcome for outcome in found}


def dies(_: Target) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def writes_beside_another(target: Target) -> str:
    """Write one file, and stay until both of two have: side by side, so neither may share the other's folder."""
    (target.folder / "file").touch(exist_ok=False)
    for _ in range(3000):
        if len(list(target.folder.parent.glob("*/file"))) == 2:
            break
        time.sleep(0.1)
    else:
        raise TimeoutError("the other one never ran")
    return f"process {os.getpid()} of {torch.get_num_threads()} threads"


def test_check_runs_steps_and_trainings_and_keeps_what_it_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "seen.json"
    chosen = ("step/paper/bfloat16", "step/freeze-backbone", "training/loss-not-finite", "memory/*")
    only = [word for name in chosen for word in ("--only", name)]
    assert main(["check", *TINY, "--json", str(record), *only]) == 0
    checks = {check["name"]: check for check in json.loads(record.read_text())["checks"]}
    assert {checks[name]["verdict"] for name in chosen[:3]} == {"passed"}
    skipped = [check for name, check in checks.items() if name.startswith("memory/")]
    assert skipped
    assert {(check["verdict"], check["seen"]) for check in skipped} == {("skipped", "needs CUDA")}
    assert f"3 passed, 0 FAILED, {len(skipped)} skipped" in capsys.readouterr().out


def test_a_step_that_computes_something_else_is_found(here: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check("step", partial(compare, Case("step", {"clip_grad": 0.1, "ema": 0.9})))
    assert outcomes([check], here)["step"].verdict == "passed"
    # The first side's clipping is left out: the second one's is put back where it begins.
    clip = torch.nn.utils.clip_grad_norm_
    calls = iter(range(1000))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: None if next(calls) < STEPS else clip(*a))
    outcome = outcomes([check], here)["step"]
    assert (outcome.verdict, "gradient" in outcome.seen) == ("FAILED", True)


def test_without_the_trainers_packages_checks_are_skipped_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        target.importlib.util, "find_spec", lambda name: None if name in ("pydantic", "simplejpeg") else find(name)
    )
    assert main(["check", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "trainings: not installed: pydantic, simplejpeg" in printed
    assert "0 passed, 0 FAILED, 3 skipped" in printed


def test_a_failed_check_is_told_and_the_others_go_on(here: Target) -> None:
    def fails(_: Target) -> str:
        require(False, "two is not three")
        return ""

    found = outcomes([Check("a", fails), Check("b", lambda _: "fine"), Check("c", fails, ("no_such_package",))], here)
    assert [(outcome.verdict, outcome.seen) for outcome in found.values()] == [
        ("FAILED", "CheckError: two is not three"),
        ("passed", "fine"),
        ("skipped", "not installed: no_such_package"),
    ]
    assert "fails" in found["a"].trace


def test_a_process_that_dies_fails_its_check_alone(here: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # what it starts imports this file
    stays = writes_beside_another
    checks = [Check("a", dies), Check("b", stays), Check("c", dies), Check("d", stays), Check("e", dies)]
    found = outcomes(checks, here, processes=2)
    assert {name for name, outcome in found.items() if outcome.verdict == "passed"} == {"b", "d"}
    assert {found[name].seen for name in "ace"} == {"its process died; standard error may say why"}
    assert found["b"].seen != found["d"].seen
    assert str(os.getpid()) not in found["b"].seen + found["d"].seen


def test_a_check_that_no_process_can_take_is_an_error_and_not_left_out(here: Target) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        outcomes([Check("a", lambda _: "")], here, processes=2)


@pytest.mark.parametrize(("memory_gib", "b0", "b4"), [(80, 1024, 128), (140, 1024, 256), (8, 64, 8)])
def test_a_contestants_batch_is_by_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_gib: int, b0: int, b4: int
) -> None:
    card = SimpleNamespace(total_memory=memory_gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    batches = {
        (contest.variant, contest.image_size): contest.batch
        for contest in contests(Target(torch.device("cuda"), False, tmp_path))
    }
    assert batches == {("b0", 224): b0, ("b4", 380): b4, ("b0", 64): 128}


def test_no_memory_is_told_from_other_errors() -> None:
    def fails(error: Exception) -> None:
        raise error

    assert finds_memory(lambda: None)
    assert not finds_memory(lambda: fails(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="another"):
        finds_memory(lambda: fails(RuntimeError("another")))


def test_bench_has_a_row_for_each_contestant_and_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "seen.json"
    assert main(["bench", *TINY, "--json", str(record)]) == 0
    seen = json.loads(record.read_text())
    names = [row["contestant"] for row in seen["steps"]]
    assert names[:2] == ["b0 32 px: effnet, eager", "b0 32 px: effnet trainer, eager"]
    rivals = [row for row in seen["steps"] if "timm" in row["contestant"]]
    assert all(row["ours"]["rounds"] == 2 for row in rivals)
    assert [row["loader_workers"] for row in seen["feeding"]] == [1]
    assert all(0 <= row["waited_share"] < 1 for row in seen["feeding"])
    assert "1 loader workers on" in capsys.readouterr().out


def test_no_device_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: torch sees no CUDA device here")
