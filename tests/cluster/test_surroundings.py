"""An office's proxy, files named as modules, homes of any name: engines start and are reached all the same."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from effnet_cluster.cluster import jobs as jobs_module
from effnet_cluster.cluster import services as module
from effnet_cluster.cluster.engines import check_mlflow
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.jobs import Jobs
from effnet_cluster.cluster.ray_token import ensure_token
from effnet_cluster.cluster.services import Services
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.tracking.server import make_client

from .conftest import Cli
from .test_cli import is_one_line

DEAD = "http://127.0.0.1:9"  # nobody listens at the port of `discard`
PROXIES = [
    {"http_proxy": DEAD},
    {"HTTP_PROXY": DEAD, "https_proxy": DEAD},
    {"all_proxy": DEAD},
    {"ALL_PROXY": "socks5://127.0.0.1:9", "grpc_proxy": DEAD},
    {"http_proxy": DEAD, "no_proxy": "intranet"},
    {"http_proxy": DEAD, "NO_PROXY": "intranet"},
]


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Set proxies, for this process and its children."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):  # noted, so that they go again
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def use(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that is Ray's dashboard, MLflow and a proxy to both; its address, and what it was asked for."""
    asked: list[str] = []
    jobs = [{"type": "SUBMISSION", "submission_id": "x", "status": "SUCCEEDED", "entrypoint": "", "job_id": "1"}]
    unborn = {"submission_id": "y", "status": "FAILED", "message": "could not start:\n" + 999 * "at " + "\nbecause\n"}
    jobs.append(jobs[0] | unborn)
    answers: dict[str, Any] = {
        "/health": "OK",
        "/api/version": {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "x"},
        "/api/jobs/": jobs,
        "/api/jobs/x/logs": {"logs": "one\ntwo"},
        "/api/jobs/y/logs": {"logs": ""},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            path = "/" + self.path.split("/", 3)[3] if "://" in self.path else self.path
            found = answers.get(path.partition("?")[0])
            body = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


@pytest.mark.usefixtures("known_token")
@pytest.mark.parametrize("variables", PROXIES, ids=str)
def test_engines_on_this_machine_are_asked_past_the_proxy(
    office: Callable[[dict[str, str]], None],
    server: tuple[str, list[str]],
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    office(variables)
    address, asked = server
    Services(Home(tmp_path))
    assert module._answers(f"{address}/health")
    assert check_mlflow(address) == address
    assert check_mlflow(address.replace("127.0.0.1", "localhost")).startswith("http://localhost:")
    assert Jobs(address).status("x") == "SUCCEEDED"
    assert make_client(address, 0).get_experiment_by_name  # MLflow's client reads the variables at each request
    with requests.Session() as session:  # as MLflow's does
        assert session.get(f"{address}/health").text == "OK"
    assert not [path for path in asked if "://" in path]


async def collected(jobs: Jobs) -> str:
    return "".join([piece async for piece in jobs.follow_logs("x")])


@pytest.mark.usefixtures("known_token")
def test_engines_elsewhere_are_asked_through_the_proxy(
    office: Callable[[dict[str, str]], None], server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_TAIL_AGAIN_S", 0.01)
    address, asked = server
    office({"http_proxy": address})
    assert check_mlflow("http://mlflow.example:5000") == "http://mlflow.example:5000"
    jobs = Jobs("http://ray.example:8265")
    assert jobs.status("x") == "SUCCEEDED"
    assert asyncio.run(collected(jobs)) == "one\ntwo"
    assert {path.split("/")[2] for path in asked} == {"mlflow.example:5000", "ray.example:8265"}


@pytest.mark.usefixtures("known_token")
def test_why_a_job_has_no_log_is_told_with_its_end(server: tuple[str, list[str]]) -> None:
    (line,) = Jobs(server[0]).error_lines("y")
    assert line.startswith("could not start: at at")
    assert line.endswith("at because")
    assert len(line) <= 300


class Started(Exception):
    pass


@pytest.mark.parametrize("name", ["ray", "mlflow"])
def test_services_are_started_past_the_proxy_and_deaf_to_modules_of_the_folder(
    office: Callable[[dict[str, str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    office({"http_proxy": DEAD, "no_proxy": "intranet"})
    long = tmp_path / ("t" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(module, "ensure_token", lambda: None)
    given: dict[str, Any] = {}

    def start(command: list[str], **options: Any) -> None:
        given.update(options, command=command)
        raise Started

    monkeypatch.setattr(subprocess, "Popen", start)
    root = tmp_path / "höme 100%41?x#y'\""
    services = Services(Home(root))
    with pytest.raises(Started):
        services.ensure_ray() if name == "ray" else services.ensure_mlflow()
    assert given["env"]["PYTHONSAFEPATH"] == "1"
    assert len(given["env"]["TMPDIR"]) <= 75  # else multiprocessing's sockets have no room
    assert {"127.0.0.1", "localhost", "::1", "intranet"} <= set(given["env"]["no_proxy"].split(","))
    # What the engines make of such a name is theirs; none of them is given it.
    assert not [word for word in given["command"] if "%41" in word]


TRAPS = ("random", "json", "ray", "numpy", "mlflow", "uvicorn", "yaml", "sqlalchemy", "click", "psutil", "flask")


def set_traps(folder: Path) -> Path:
    """Files named as modules; the one that is run leaves a mark at the returned path."""
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'caught')!r}, 'a').write({name!r})\n")
    return folder / "caught"


def test_a_token_is_made_without_running_what_lies_in_the_folder(
    tmp_path: Path, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = set_traps(tmp_path)
    monkeypatch.chdir(tmp_path)
    ensure_token()
    assert token.read_text()
    assert not caught.exists()


def test_a_command_and_its_worker_processes_run_nothing_that_lies_in_the_folder(photos: Path, tmp_path: Path) -> None:
    caught = set_traps(tmp_path)
    code = "from effnet_cluster.cluster.cli import main\nif __name__ == '__main__': main()\n"
    script = tmp_path / "bin" / "effnet-cluster"
    script.parent.mkdir()
    script.write_text(code)
    command = [sys.executable, str(script), "data", "prepare", str(photos), "out", "--workers", "2"]
    environment = {**os.environ, "EFFNET_CLUSTER_HOME": str(tmp_path / "home")}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert not caught.exists()


def test_mlflow_runs_in_an_office_in_a_home_of_any_name_with_modules_in_it(
    office: Callable[[dict[str, str]], None], tmp_path: Path
) -> None:
    """The real server: its database and its artifacts are where the home says."""
    office({"http_proxy": DEAD, "https_proxy": DEAD, "all_proxy": DEAD})
    home = Home(tmp_path / "Häuser 100%41?x=1#y 'z\" [a]").make()
    caught = set_traps(home.root)
    services = Services(home)
    try:
        uri = services.ensure_mlflow().url
        client = make_client(uri, 5)
        run = client.create_run(client.create_experiment("x"))
        client.log_text(run.info.run_id, "hello", "a/b.txt")
        assert (home.mlflow / "mlflow.db").stat().st_size > 10_000
        assert [path.read_text() for path in (home.mlflow / "artifacts").rglob("b.txt")] == ["hello"]
        assert {path.name for path in tmp_path.iterdir()} == {home.root.name}
        assert {path.name for path in home.root.iterdir() if path.suffix != ".py"} == {
            *("logs", "mlflow", "services.json", "services.lock")
        }
        assert not caught.exists()
    finally:
        services.stop("mlflow")


@pytest.mark.parametrize("name", ["ö", "%41", "a?b", "a#b", "'", '"', "x" * 60])
def test_rays_folder_has_a_plain_and_short_name_whatever_the_homes(name: str) -> None:
    place = str(Services(Home(Path("/home/me") / name))._ray_temp())
    assert place.startswith("/tmp/effnet-ray-")
    assert len(place) <= 40
    assert place.isascii()


def test_a_plain_home_keeps_rays_folder() -> None:
    for root in ("/home/me/.effnet-cluster", "/data/my home"):
        assert Services(Home(Path(root)))._ray_temp() == Path(root) / "ray"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/x/a\nb", r"a\nb has control characters"),
        ("/x/a\x1b[31mb", r"a\x1b[31mb has control characters"),
        ("/x/\udcff", r"\udcff has control characters in its name, or is not UTF-8"),
        ("~nosuchuser/x", "no home: "),
        ("/proc/effnet", "/proc/effnet: No such file"),
        ("/dev/null", "/dev/null: "),
        ("/dev/null/x", "/dev/null/x: Not a directory"),
        ("/" + "x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("verb", ["up", "submit"])
def test_a_home_that_cannot_be_is_one_line_before_anything_starts(cli: Cli, verb: str, place: str, told: str) -> None:
    call = ("up",) if verb == "up" else ("submit", "--variants", "b0", "--detach")
    result = cli(*call, EFFNET_CLUSTER_HOME=place)
    is_one_line(result, result.exit_code, told)
    assert result.exit_code in (1, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("verb", ["up", "submit --variants b0 --detach", "submit --variants b0 --dry-run"])
def test_a_home_that_cannot_be_written_is_one_line(verb: str) -> None:
    """Of nobody's, who owns it, and may not write into it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        home = Path(folder, "home")
        home.mkdir(mode=0o500)
        os.chown(home, 65534, 65534)
        code = (
            "import os, sys; sys.stdout.flush()\n"
            "import effnet_cluster.cluster.cli.up, effnet_cluster.cluster.cli.submit\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "from effnet_cluster.cluster.cli import main; main(prog_name='effnet-cluster')"
        )
        environment = {**os.environ, "EFFNET_CLUSTER_HOME": str(home)}
        command = [sys.executable, "-c", code, *verb.split()]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode in (1, 2)
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith(f"error: {home}")


def test_an_error_without_a_home_is_a_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_CLUSTER_HOME", "~nosuchuser/x")
    with pytest.raises(UserError, match=r"EFFNET_CLUSTER_HOME names one$"):
        Home.default()
