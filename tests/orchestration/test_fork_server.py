"""The process that forks for Ray's workers: what it starts is what Ray would have started, and begins at once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._raylet import JobID, PlacementGroupID

from effnet_cluster.orchestration.running.fork_server import fork_server
from effnet_cluster.orchestration.training import trainer

TELL = f"""
import json, os, sys, threading, signal
TRAINER = {trainer.__name__!r}
"torch" in sys.modules or print("no torch", file=sys.stderr)
import torch
print("to the other stream", file=sys.stderr)
print(json.dumps({{
    "arguments": sys.argv, "folder": os.getcwd(), "name": __name__, "pid": os.getpid(), "parent": os.getppid(),
    "x": os.environ.get("X"), "home": os.environ.get("HOME"), "loaded": TRAINER in sys.modules,
    "ray": "ray" in sys.modules,
    "threads": threading.active_count(), "cuda": torch.cuda.is_initialized(), "session": os.getsid(0),
    "waits": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
}}))
"""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with fork_server() as command:
        yield command


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "a script; 'quoted' ü.py"
    path.write_text(TELL, "utf-8")
    return path


def told(python: str, script: Path, *arguments: str, **environment: str) -> tuple[dict[str, Any], str]:
    """What a script says of itself that is started as Ray starts a worker, and what it writes to the other stream."""
    folder = script.parent / "folder"
    folder.mkdir(exist_ok=True)
    out, err = script.parent / "out", script.parent / "err"
    command = f"exec {python} {shlex.join([str(script), *arguments])}"
    with out.open("w") as stdout, err.open("w") as stderr:
        subprocess.run(
            ["bash", "-c", command], cwd=folder, env=os.environ | environment, stdout=stdout, stderr=stderr, check=True
        )
        deadline = time.monotonic() + 60  # the command may end before what it has started
        while not out.read_text().endswith("}\n") and time.monotonic() < deadline:
            time.sleep(0.05)
    return json.loads(out.read_text()), err.read_text()


def test_a_fork_is_the_program_that_was_ordered(python: str, script: Path) -> None:
    found, other = told(python, script, "--a", "b c", "$HOME", X="ü\udcff")
    server = psutil.Process(found["parent"])
    assert server.ppid() == os.getpid()
    assert found["arguments"] == [str(script), "--a", "b c", "$HOME"]
    assert (found["name"], found["folder"]) == ("__main__", str(script.parent / "folder"))
    assert (found["x"], found["home"]) == ("ü\udcff", os.environ["HOME"])
    assert "to the other stream" in other
    assert (found["loaded"], found["ray"]) == (True, True)
    assert (found["threads"], found["cuda"], found["waits"]) == (1, False, True)
    assert found["session"] == found["pid"]
    without, _ = told(python, script)
    assert (without["x"], without["parent"], without["arguments"]) == (None, found["parent"], [str(script)])


def test_a_fork_that_has_ended_leaves_no_zombie(python: str, script: Path) -> None:
    found, _ = told(python, script)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(found["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(found["pid"])


def test_a_broken_order_and_a_client_that_leaves_do_no_harm(python: str, script: Path) -> None:
    address = shlex.split(python)[-1]
    for content in (b"", b"\n", b"\n{", b'\n{"arguments": 3'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.sendall(content)
    found, _ = told(python, script)
    assert found["loaded"]


def test_without_a_server_a_worker_begins_as_usual(script: Path) -> None:
    with fork_server() as python:
        folder = Path(shlex.split(python)[-1]).parent
    assert not folder.exists()
    found, _ = told(python, script, "a")
    assert (found["arguments"], found["loaded"]) == ([str(script), "a"], False)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "its group stopped"])
def test_the_server_ends_with_the_process_that_has_started_it_however_that_ends(how: signal.Signals) -> None:
    code = f"""
import time
from {fork_server.__module__} import fork_server
with fork_server() as python:
    print(python, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as owner:
        assert owner.stdout
        folder = Path(shlex.split(owner.stdout.readline())[-1]).parent
        (server,) = psutil.Process(owner.pid).children()
        if how is signal.SIGTERM:  # as Ray stops a job's driver
            os.killpg(owner.pid, how)
        else:
            owner.kill()
    server.wait(60)
    assert not folder.exists()


def test_forks_end_with_the_server_which_nobody_else_would_find(tmp_path: Path) -> None:
    script = tmp_path / "sleep.py"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with fork_server() as python:
        out = tmp_path / "out"
        with out.open("w") as stdout:
            subprocess.run(["bash", "-c", f"exec {python} {script}"], stdout=stdout, check=True)
        deadline = time.monotonic() + 60
        while not out.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        fork = psutil.Process(int(out.read_text()))
    fork.wait(20)


def test_rays_workers_are_forks_that_draw_ids_of_their_own(without_token: None) -> None:
    """The contract with Ray: a worker may have another process id than what Ray has started for it."""

    @ray.remote(num_cpus=1)
    class Worker:
        def facts(self) -> dict[str, Any]:
            loaded, drawn = trainer.__name__ in sys.modules, PlacementGroupID.of(JobID.from_int(1)).hex()
            job = ray.get_runtime_context().get_job_id()
            return {"pid": os.getpid(), "parent": os.getppid(), "loaded": loaded, "job": job, "drawn": drawn}

    with fork_server() as python:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"py_executable": python})
        try:
            workers = [Worker.remote() for _ in range(2)]
            found = ray.get([worker.facts.remote() for worker in workers], timeout=120)
            (server,) = {psutil.Process(worker["parent"]) for worker in found}
            assert server.ppid() == os.getpid()
            assert all(worker["loaded"] for worker in found)
            assert {worker["job"] for worker in found} == {ray.get_runtime_context().get_job_id()}
            assert len({worker["drawn"] for worker in found}) == 2, "they draw the same ids for Ray's objects"
            ray.kill(workers[0])
            os.kill(found[1]["pid"], signal.SIGKILL)
            with pytest.raises(ray.exceptions.RayActorError):
                ray.get(workers[1].facts.remote(), timeout=60)
            gone = [worker["pid"] for worker in found]
            deadline = time.monotonic() + 30
            while any(map(psutil.pid_exists, gone)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not any(map(psutil.pid_exists, gone))
            assert ray.get(Worker.remote().facts.remote(), timeout=120)["parent"] == server.pid
        finally:
            ray.shutdown()
