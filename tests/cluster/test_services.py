"""Services: whose process is whose, and ports that are taken. What runs here is real: sockets and processes."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from effnet_cluster.cluster import services as module
from effnet_cluster.cluster.home import Home
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


def record(home: Home, process: psutil.Process, started: float, name: str = "ray") -> Service:
    service = Service(name, process.pid, started, "http://127.0.0.1:1", str(home.logs / "x.log"))
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
    chosen = module._choose_port(None, taken_port, "--x")
    assert chosen != taken_port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", chosen))  # it is free indeed
    assert module._choose_port(None, chosen, "--x") == chosen


def test_a_running_service_is_ours_and_another_port_for_it_is_refused(tmp_path: Path, sleeper: psutil.Popen) -> None:
    home = Home(tmp_path)
    service = record(home, sleeper, sleeper.create_time())
    services = Services(home)
    assert services.running() == {"ray": service}
    assert services.ensure_ray() == service
    assert services.ensure_ray(1) == service
    with pytest.raises(EngineError, match=r"ray runs on port 1 already; `effnet-cluster down` first to use 2$"):
        services.ensure_ray(2)


def test_stopping_ends_the_service_with_its_children(tmp_path: Path, sleeper: psutil.Popen) -> None:
    home = Home(tmp_path)
    record(home, sleeper, sleeper.create_time())
    (child,) = sleeper.children()
    services = Services(home)
    assert services.stop("ray")
    assert sleeper.wait(5) != 0
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert services.running() == {}
    assert not services.stop("ray")


def test_a_process_that_inherited_the_id_of_a_dead_service_is_left_alone(tmp_path: Path, sleeper: psutil.Popen) -> None:
    home = Home(tmp_path)
    record(home, sleeper, sleeper.create_time() - 3600)
    services = Services(home)
    assert services.running() == {}
    assert not services.stop("ray")
    assert sleeper.is_running()
    assert sleeper.status() != psutil.STATUS_ZOMBIE
    assert all(child.is_running() for child in sleeper.children())
    assert json.loads((tmp_path / "services.json").read_text()) == {}


def test_a_service_that_has_ended_is_not_running(tmp_path: Path) -> None:
    process = psutil.Popen(["sleep", "60"])
    started = process.create_time()
    service = record(Home(tmp_path), process, started)
    assert service.is_running
    process.kill()
    while process.status() != psutil.STATUS_ZOMBIE:
        pass
    assert not service.is_running  # nobody has waited for it yet: a zombie
    process.wait()
    assert not service.is_running
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
