"""What travels to the cluster with a job, enough to run by itself, and what comes back: its log."""

import asyncio
import re
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from effnet_cluster.cluster import jobs as jobs_module
from effnet_cluster.cluster.cli import logs as logs_command
from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.jobs import Jobs, _staged
from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.driver import EXPERIMENT_FILE
from effnet_cluster.orchestration.errors import EngineError, UserError
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec

from .conftest import TOKEN, Cli

PACKAGE = Path(__file__).parents[2]
ROOMS = {"effnet", "datasets", "orchestration", "cluster"}


@pytest.fixture(scope="module")
def request_(shards: Manifest) -> ExperimentRequest:
    fields = {"name": "x", "variants": "b0", "seeds": [1, 10], "recipe": {"global_batch": 4}}
    plan = make_plan(ExperimentSpec.parse(fields), shards)
    return ExperimentRequest(
        uid="u", job="x", plan=plan, tracking_uri="http://127.0.0.1:1", storage="/nowhere", cache_root="/nowhere"
    )


def test_the_four_rooms_travel_and_nothing_that_is_large_private_or_compiled(request_: ExperimentRequest) -> None:
    with _staged(request_) as folder:
        assert {path.name for path in folder.iterdir()} == {"effnet_cluster", EXPERIMENT_FILE}
        assert {path.name for path in (folder / "effnet_cluster").iterdir()} == ROOMS
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 2**21
        for path in folder.rglob("*"):
            assert path.name != "__pycache__"
            assert not path.name.startswith(".")
            assert path.suffix != ".pyc"
        for room in ROOMS:
            ours = {path.relative_to(PACKAGE) for path in (PACKAGE / room).rglob("*.py")}
            staged = folder / "effnet_cluster"
            assert {path.relative_to(staged) for path in (staged / room).rglob("*.py")} == ours
        assert ExperimentRequest.model_validate_json((folder / EXPERIMENT_FILE).read_text()) == request_
    assert not folder.exists()


def test_the_driver_runs_from_what_travelled_alone(request_: ExperimentRequest) -> None:
    """Without our installation: -S leaves out the editable finder, and the dependencies are added by hand."""
    code = (
        "import sys, runpy\n"
        f"sys.path[:0] = ['']; sys.path += {[sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]!r}\n"
        f"sys.argv = ['driver', {EXPERIMENT_FILE!r}]\n"
        "from effnet_cluster.orchestration import errors, request\n"
        "def refuse(text): raise errors.UserError('/nowhere/at/all: no such folder')\n"
        "request.ExperimentRequest.model_validate_json = refuse\n"
        "try: runpy.run_module('effnet_cluster.orchestration.driver', run_name='__main__')\n"
        "finally: print(*{m.__file__ for n, m in sys.modules.items() if n.startswith('effnet_cluster.')}, sep='\\n')\n"
    )
    with _staged(request_) as folder:
        run = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=folder)
        files = run.stdout.split()
        assert len(files) > 5
        assert all(Path(file).is_relative_to(folder) for file in files)
    assert run.returncode == 2
    assert re.fullmatch(r"\S+ \S+ ERROR   /nowhere/at/all: no such folder\n", run.stderr)


def test_beside_an_installation_what_travelled_wins(request_: ExperimentRequest) -> None:
    code = "import effnet_cluster.orchestration.driver as d; print(d.__file__)"
    with _staged(request_) as folder:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)
        assert Path(run.stdout.strip()).is_relative_to(folder)


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "", "auto"])
def test_an_address_that_is_no_dashboards_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"expected the Ray dashboard's, such as http://head-node:8265$"):
        Jobs(address)


# A job's log. The server speaks as Ray's dashboard does to the real client; the token is checked in every request.

LOG = """\
2026-11-26 04:05:01,123\tINFO worker.py:2029 -- Connected
(RayTrainWorker pid=71) 2026-11-26 04:05:06 INFO    [photos-b0-silu-s1] epoch 1/1  [bold]ä[/bold]
(RayTrainWorker pid=72) 2026-11-26 04:05:06 INFO    [photos-b0-silu-s10] epoch 1/1
(RayTrainWorker pid=71) 2026-11-26 04:05:07 ERROR   [photos-b0-silu-s1] broke
(RayTrainWorker pid=71) Traceback (most recent call last):
2026-11-26 04:05:11 ERROR   [photos-b0-silu-s10] out of memory
2026-11-26 04:05:12,001\tINFO tune.py:1007 -- Wrote"""
OF_S1 = [line for line in LOG.splitlines() if "pid=71" in line]


@dataclass
class Dashboard:
    """One job, `x`. Each of `tails` is what one connection to the tail sends; the last one is sent ever after."""

    tails: list[list[str]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=lambda: ["SUCCEEDED"])
    log: str = LOG
    how: str = "end"
    refused: list[str] = field(default_factory=list)
    address: str = ""

    @web.middleware
    async def authorize(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refused.append(request.path)
            return web.Response(status=401, text="no token")
        response: web.StreamResponse = await handler(request)
        return response

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "x"})

    async def jobs(self, request: web.Request) -> web.Response:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.json_response(
            [{"type": "SUBMISSION", "submission_id": "x", "status": status, "entrypoint": "", "job_id": "1"}]
        )

    async def logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": self.log})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for piece in self.tails.pop(0) if len(self.tails) > 1 else self.tails[0]:
            await socket.send_str(piece)
        if self.how == "hang":
            await asyncio.sleep(60)
        if self.how == "cut":
            assert request.transport is not None
            request.transport.abort()
        return socket


@pytest.fixture
def dashboard(tmp_path: Path, known_token: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setattr(jobs_module, "_TAIL_AGAIN_S", 0.01)
    board, started, loop = Dashboard(), threading.Event(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(middlewares=[board.authorize])
        app.router.add_get("/api/version", board.version)
        app.router.add_get("/api/jobs/", board.jobs)
        app.router.add_get("/api/jobs/x/logs", board.logs)
        app.router.add_get("/api/jobs/x/logs/tail", board.tail)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        board.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(30)
    yield board
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_what_mlflows_client_logs_in_with_travels_with_a_job(
    dashboard: Dashboard, request_: ExperimentRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    jobs, sent = Jobs(dashboard.address), list[dict[str, str]]()
    monkeypatch.setattr(
        jobs._client, "submit_job", lambda *, runtime_env, **others: sent.append(runtime_env["env_vars"])
    )
    jobs.submit(request_)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    jobs.submit(request_)
    assert {name: sent[0][name] for name in set(sent[0]) - set(sent[1])} == {
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "secret",
    }


def followed(address: str) -> str:
    async def collect() -> str:
        return "".join([piece async for piece in Jobs(address).follow_logs("x")])

    return asyncio.run(collect())


def test_a_followed_log_is_the_log(dashboard: Dashboard, capfd: pytest.CaptureFixture[str]) -> None:
    dashboard.tails = [[LOG[i : i + 7] for i in range(0, len(LOG), 7)]]
    assert followed(dashboard.address) == LOG == Jobs(dashboard.address).logs("x")
    assert set(dashboard.refused) == {"/api/version"}  # whether anybody answers there is asked without a token
    assert capfd.readouterr() == ("", "")


def test_a_tail_that_ends_before_the_job_is_taken_up_again_where_it_was(dashboard: Dashboard) -> None:
    dashboard.tails = [[], [LOG[:50], LOG[50:90]], [LOG[:70]], [LOG[:60], LOG[60:120], LOG[120:]]]
    dashboard.statuses = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    assert followed(dashboard.address) == LOG


@pytest.mark.parametrize("gone", [False, True])
def test_a_broken_tail_is_told_in_one_line(dashboard: Dashboard, gone: bool) -> None:
    dashboard.tails, dashboard.how = [[LOG[:50]]], "cut"
    jobs = Jobs(dashboard.address)

    async def follow() -> None:
        async for _ in jobs.follow_logs("y" if gone else "x"):
            pass

    with pytest.raises(EngineError, match=rf"^Ray at {dashboard.address}: .+$"):
        asyncio.run(follow())


@pytest.mark.parametrize(
    ("log", "errors"),
    [
        (LOG, ["photos-b0-silu-s10: out of memory"]),
        ("2026-11-26 04:05:11 ERROR   --workers 8 needs 8 CPU cores\nbye\n", ["--workers 8 needs 8 CPU cores"]),
        ("Traceback (most recent call last):\n  x\nImportError: no y\n\n(raylet) bye\n", ["ImportError: no y"]),
        ("(raylet) bye\n", ["(raylet) bye"]),
        ("", []),
    ],
)
def test_errors_are_the_drivers_records_of_that_level_or_its_last_line(
    dashboard: Dashboard, log: str, errors: list[str]
) -> None:
    dashboard.log = log
    assert list(Jobs(dashboard.address).error_lines("x")) == errors


@pytest.fixture
def experiment(home: Home, request_: ExperimentRequest, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> str:
    """A record of `x`, whose MLflow server need not run."""
    engines = Engines(dashboard.address, "http://127.0.0.1:1", local_ray=False, local_mlflow=False)
    experiments = Experiments(home)
    experiments.save(experiments.new(request_, engines))
    monkeypatch.setattr(logs_command, "reconnect", lambda _, record: record)
    return "x"


@pytest.mark.parametrize("flags", [(), ("-f",)])
def test_logs_prints_the_records_of_one_trial(
    cli: Cli, experiment: str, dashboard: Dashboard, flags: tuple[str, ...]
) -> None:
    dashboard.tails = [[LOG[:200], LOG[200:333], LOG[333:]]]
    assert cli("logs", experiment, *flags).stdout == LOG + "\n"
    result = cli("logs", experiment, "photos-b0-silu-s1", *flags)
    assert result.stdout.splitlines() == OF_S1
    assert result.stderr == ""


def test_logs_of_an_unknown_trial_names_those_that_there_are(cli: Cli, experiment: str) -> None:
    result = cli("logs", experiment, "photos-b0-silu-s")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: 'x' has no trial 'photos-b0-silu-s'; its trials are photos-b0-silu-s1, photos-b0-silu-s10\n"
    )


def test_logs_says_once_that_a_job_waits(cli: Cli, experiment: str, dashboard: Dashboard) -> None:
    dashboard.tails, dashboard.statuses = [[], [], [LOG]], ["PENDING", "PENDING", "PENDING", "SUCCEEDED"]
    result = cli("logs", experiment, "-f")
    assert (result.stdout, result.stderr) == (LOG + "\n", "x waits to start\n")


def test_control_c_ends_following_quietly(experiment: str, dashboard: Dashboard, home: Home) -> None:
    dashboard.tails, dashboard.statuses, dashboard.how = [[LOG + "\n"]], ["RUNNING"], "hang"
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from effnet_cluster.cluster.cli import logs\n"
        "logs.reconnect = lambda _, record: record\n"
        "logs.command(['x', '-f'])"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    lines = [run.stdout.readline() for _ in LOG.splitlines()]
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert ("".join(lines), out, err, run.returncode) == (LOG + "\n", "", "", 0)
