"""Services: whose process is whose, and ports that are taken. What runs here is real: sockets and processes."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from effnet_cluster.cluster import services as module
from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.processes import start_mark
from effnet_cluster.cluster.services import Service, Services
from effnet_cluster.orchestration.errors import EngineError


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


@pytest.fixture
def sleeper() -> Iterator[psutil.Popen]:
    """A process with a child, as a service has."""
    code = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    process = psutil.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    family = [process, *process.children()]
    yield process
    for member in family:
        if member.is_running():
            member.kill()
    process.wait()
    process.stdout.close()


def record(home: Home, process: psutil.Process, mark: str | None = None, port: int = 1, name: str = "ray") -> Service:
    """A service that is ready; with another mark, one that had this process's id before."""
    mark = mark or start_mark(process.pid) or ""
    service = Service(name, process.pid, mark, f"http://127.0.0.1:{port}", str(home.logs / "x.log"), ready=True)
    home.root.mkdir(exist_ok=True)
    (home.root / "services.json").write_text(json.dumps({name: asdict(service)}))
    return service


def test_in_a_fresh_home_nothing_runs_and_asking_creates_nothing(tmp_path: Path) -> None:
    services = Services(Home(tmp_path / "home"))
    assert services.running() == {}
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("name", "flag"), [("ray", "--dashboard-port"), ("mlflow", "--mlflow-port")])
def test_a_taken_port_is_told_with_its_flag_and_nothing_is_started(
    tmp_path: Path, taken_port: int, name: str, flag: str
) -> None:
    services = Services(Home(tmp_path))
    ensure = services.ensure_ray if name == "ray" else services.ensure_mlflow
    with pytest.raises(EngineError, match=f"^port {taken_port} is in use; .* {flag}$") as caught:
        ensure(taken_port)
    assert caught.value.exit_code == 1
    assert services.running() == {}
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


def test_without_a_wish_a_taken_usual_port_is_avoided(taken_port: int) -> None:
    chosen = module._first_free(taken_port)
    assert taken_port < chosen < taken_port + 100
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", chosen))  # it is free indeed
    assert module._first_free(chosen) == chosen


def test_a_service_starts_again_on_its_last_port(
    tmp_path: Path, sleeper: psutil.Popen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        last = int(probe.getsockname()[1])
    home, asked = Home(tmp_path), list[str]()
    record(home, sleeper, port=last, name="mlflow")
    services = Services(home)
    services.stop("mlflow")

    def start(name: str, command: list[str], env: object, url: str) -> Service:
        asked.append(url)
        return Service(name, 0, "", url, "")

    monkeypatch.setattr(services, "_start", start)
    services.ensure_mlflow()
    assert capsys.readouterr().err == ""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", last))
        stranger.listen()
        services.ensure_mlflow()
    *_, other = (int(url.rpartition(":")[2]) for url in asked)
    assert asked[0] == f"http://127.0.0.1:{last}"
    assert other != last
    told = capsys.readouterr().err
    assert told.startswith(f"mlflow: port {last} is used by something else now, so it is at {other}")
    assert told.count("\n") == 1


def test_a_running_service_is_ours_and_another_port_for_it_is_refused(tmp_path: Path, sleeper: psutil.Popen) -> None:
    home = Home(tmp_path)
    service = record(home, sleeper)
    services = Services(home)
    assert services.running() == {"ray": service}
    assert services.ensure_ray() == service
    assert services.ensure_ray(1) == service
    with pytest.raises(EngineError, match=r"ray runs on port 1 already; `effnet-cluster down` first to use 2$"):
        services.ensure_ray(2)


def test_stopping_ends_the_service_with_its_children(tmp_path: Path, sleeper: psutil.Popen) -> None:
    home = Home(tmp_path)
    record(home, sleeper)
    (child,) = sleeper.children()
    services = Services(home)
    assert services.stop("ray")
    assert sleeper.wait(5) != 0
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert services.running() == {}
    assert not services.stop("ray")


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_process_that_inherited_the_id_of_a_dead_service_is_left_alone(
    tmp_path: Path, sleeper: psutil.Popen, same_boot: bool
) -> None:
    home = Home(tmp_path)
    boot, _, ticks = str(start_mark(sleeper.pid)).partition(":")
    record(home, sleeper, f"{boot}:{int(ticks) - 1}" if same_boot else f"{boot[::-1]}:{ticks}")
    services = Services(home)
    assert services.running() == {}
    assert not services.stop("ray")
    assert sleeper.is_running()
    assert sleeper.status() != psutil.STATUS_ZOMBIE
    assert all(child.is_running() for child in sleeper.children())


@pytest.mark.parametrize("step", [1, -1, 3600])
def test_a_service_stays_ours_when_the_clock_is_set(
    tmp_path: Path, sleeper: psutil.Popen, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The kernel moves the time of day of its boot, on which psutil's time of a process's start rests."""
    service = record(Home(tmp_path), sleeper)
    before, boot = psutil.Process(sleeper.pid).create_time(), psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + step)
    assert psutil.Process(sleeper.pid).create_time() == pytest.approx(before + step)
    assert Services(Home(tmp_path)).running() == {"ray": service}
    assert Services(Home(tmp_path)).ensure_ray() == service


def test_a_name_with_brackets_and_spaces_hides_no_start(tmp_path: Path) -> None:
    """The kernel writes a process's name before its start, as it is."""
    copy = tmp_path / "a) R 1 (2"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    processes = [psutil.Popen([path, "60"]) for path in (str(copy), "/bin/sleep")]
    try:
        odd, plain = (int(str(start_mark(process.pid)).partition(":")[2]) for process in processes)
        assert 0 <= plain - odd < 500
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_service_that_has_ended_is_not_running(tmp_path: Path) -> None:
    process = psutil.Popen(["sleep", "60"])
    service = record(Home(tmp_path), process)
    assert service.process
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        pass
    assert not service.process  # nobody has waited for it yet: a zombie
    process.wait()
    assert not service.process
    assert Services(Home(tmp_path)).running() == {}


def test_a_server_that_cannot_start_is_told_in_one_line_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    services = Services(Home(tmp_path))
    with pytest.raises(EngineError, match=r"^mlflow did not start: .*mlflow\.log\)$") as caught:
        services.ensure_mlflow()
    assert "\n" not in str(caught.value)
    assert services.running() == {}


def test_rays_folder_stays_short_enough_for_its_sockets(tmp_path: Path) -> None:
    """Unix socket paths end at 107 bytes, of which Ray needs about 64."""
    deep = tmp_path / ("x" * 80)
    for root in (Path("/home/me/.effnet-cluster"), deep, deep / "y"):
        assert len(str(Services(Home(root))._ray_temp())) <= 43
    assert Services(Home(deep))._ray_temp() != Services(Home(deep / "y"))._ray_temp()
    assert Services(Home(deep))._ray_temp() == Services(Home(deep))._ray_temp()


SERVER = """
import http.server, os, pathlib, subprocess, sys, threading, time
child = subprocess.Popen(["sleep", "60"])
pathlib.Path("family").write_text(f"{os.getpid()} {child.pid}")
while not pathlib.Path("go").exists():
    time.sleep(0.05)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def slow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A home, and the code of a command that starts a server there, which answers once there is a file `go`."""
    monkeypatch.setattr(module, "_HEALTH", {"mlflow": "/"})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    start = (
        "import sys, pathlib; from effnet_cluster.cluster import services as module\n"
        "from effnet_cluster.cluster.home import Home\n"
        "module._HEALTH = {'mlflow': '/'}\n"
        f"services = module.Services(Home(pathlib.Path({str(tmp_path)!r})))\n"
        "with services.home.locked('services'):\n"
        f"    services._start('mlflow', [sys.executable, '-c', {SERVER!r}, '{port}'], {{}}, 'http://127.0.0.1:{port}')\n"
    )
    yield tmp_path, start
    for pid in family(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def family(home: Path) -> list[int]:
    return [int(pid) for pid in (home / "family").read_text().split()]


def break_off(start: str, home: Path, number: int) -> None:
    """Send a signal to the command that starts the server, once the server is there."""
    command = subprocess.Popen([sys.executable, "-c", start], stderr=subprocess.DEVNULL)
    while not (home / "family").exists() or len(family(home)) < 2:
        assert command.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    command.send_signal(number)
    assert command.wait(30) != 0


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_control_c_while_a_service_starts_ends_it_with_its_children(slow_server: tuple[Path, str]) -> None:
    home, start = slow_server
    break_off(start, home, signal.SIGINT)
    assert not any(is_alive(pid) for pid in family(home))
    assert Services(Home(home)).running() == {}


def test_a_service_whose_command_was_killed_at_its_start_is_known_and_waited_for(
    slow_server: tuple[Path, str],
) -> None:
    home, start = slow_server
    break_off(start, home, signal.SIGKILL)
    services = Services(Home(home))
    assert services.running()["mlflow"].pid == family(home)[0]
    (home / "go").touch()
    adopted = services.ensure_mlflow()
    assert (adopted.pid, adopted.ready) == (family(home)[0], True)
    assert services.stop("mlflow")
    assert not any(is_alive(pid) for pid in family(home))


def test_what_another_server_answers_at_the_port_is_no_start_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEALTH", {"mlflow": "/"})
    stranger = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    services, url = Services(Home(tmp_path).make()), f"http://127.0.0.1:{stranger.server_port}"
    assert module._answers(url)
    try:
        with pytest.raises(EngineError, match=r"^mlflow did not start"):
            services._start("mlflow", [sys.executable, "-c", "import time; time.sleep(1)"], {}, url)
    finally:
        stranger.shutdown()
        stranger.server_close()


def test_a_record_of_another_version_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text('{"ray": {"name": "ray", "pid": 1, "started": 1.5, "url": "", "log": ""}}')
    with pytest.raises(EngineError, match=r"services\.json was written by another version .*remove it$"):
        Services(Home(tmp_path)).running()


def test_a_folder_among_those_of_others_is_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "effnet-ray-0"
    module._make_own(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    module._make_own(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file", "folder"])
def test_a_folder_of_that_name_that_another_user_has_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "effnet-ray-0"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir(mode=0o777)
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(EngineError, match=f"^{folder} belongs to another user"):
        module._make_own(folder)
