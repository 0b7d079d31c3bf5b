"""The embedded engines: a local Ray head and an MLflow server as background services on loopback.

They outlive the command that started them, and are told apart from other people's Ray and MLflow by what `processes`
knows of them, so that `down` never stops a stranger. A service that starts again takes the port that it had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import click
import psutil
import requests
from pydantic import TypeAdapter, ValidationError

from ..datasets import (
    RAY_SOCKET_BYTES,
    child_environment,
    fits_sockets,
    reach_this_machine_directly,
    shorten,
    write_atomically,
)
from ..orchestration.errors import EngineError, UserError
from .home import Home, make_private
from .kept_json import read_object
from .processes import end_with_children, find_process, start_mark
from .ray_token import ensure_token

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8265
MLFLOW_PORT = 5000
_PORTS = 100  # tried from there on
_START_TIMEOUT_S = 120
# Samples travel as files and gradients through DDP; the object store only holds small control messages.
_OBJECT_STORE_BYTES = 256 * 1024**2


# A page of each service that answers once it is up.
_HEALTH = {"ray": "/api/version", "mlflow": "/health"}


@dataclass(frozen=True)
class Service:
    """A background process of ours.

    Attributes:
        name: `ray` or `mlflow`.
        pid, mark: which process; see `start_mark`.
        url: where its web pages are.
        log: the file of what it prints.
        ready: whether it has answered since its start.
    """

    name: str
    pid: int
    mark: str
    url: str
    log: str
    ready: bool = False

    @property
    def process(self) -> psutil.Process | None:
        """The process, or None when it has ended."""
        return find_process(self.pid, self.mark)

    @property
    def port(self) -> int:
        """Of its web pages."""
        return urlsplit(self.url).port or 0


# Made once: between a service's start and its record no time is to be lost.
_SERVICES = TypeAdapter(dict[str, Service])


class Services:
    """The services of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        reach_this_machine_directly()

    def running(self) -> dict[str, Service]:
        """What runs now, by name (`ray`, `mlflow`)."""
        return {name: service for name, service in self._recorded().items() if service.process}

    def ensure_ray(self, port: int | None = None) -> Service:
        """The local Ray head, started if none of ours runs.

        `port` is the dashboard's; None: the one that it had last, or 8265, or the next that is free.
        """
        with self.home.locked("services"):
            running = self._running_at("ray", port)
            if running:
                return running
            dashboard = self._choose_port("ray", port, DASHBOARD_PORT, "--dashboard-port")
            ensure_token()
            temp = self._ray_temp()
            # Ray opens its own folder to all users. They cannot come to it: the one around it is closed.
            if temp.parent != self.home.root:
                _make_own(temp.parent)
            temp.mkdir(exist_ok=True)
            command = [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address", LOOPBACK, "--port", str(_free_port())),
                *("--dashboard-host", LOOPBACK, "--dashboard-port", str(dashboard), "--include-dashboard", "true"),
                *("--dashboard-agent-listen-port", str(_free_port()), "--ray-client-server-port", str(_free_port())),
                *("--object-store-memory", str(_OBJECT_STORE_BYTES), "--temp-dir", str(temp)),
                *("--disable-usage-stats", "--log-style", "record"),
            ]
            env = {
                # Jobs run `python`, which must be this environment's also where nobody has activated it.
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
                "RAY_AUTH_MODE": "token",
                # Named for other systems, but it is what makes Ray take the loopback address as the node's own; then
                # its control plane listens there alone.
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                # One machine of the user's own is not taken away with a notice; the watcher is one process per trial.
                "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
                # Ray's own is 15, below everything else on the machine: whatever wakes up takes a core from a rank, for
                # which the others, and its own threads, then wait.
                "RAY_worker_niceness": os.environ.get("RAY_worker_niceness", "0"),  # noqa: SIM112 (Ray's spelling)
                # Workers import the same heavy modules again and again; they may keep the compiled form.
                "PYTHONDONTWRITEBYTECODE": "",
            }
            # The processes of its jobs look for modules where it runs: in a folder that holds none.
            return self._start("ray", command, env, f"http://{LOOPBACK}:{dashboard}", temp)

    def ensure_mlflow(self, port: int | None = None) -> Service:
        """The local MLflow server over SQLite, started if none of ours runs. It alone opens the database.

        `port`: None: the one that it had last, at which trials look for it, or 5000, or the next that is free.
        """
        with self.home.locked("services"):
            running = self._running_at("mlflow", port)
            if running:
                return running
            chosen = self._choose_port("mlflow", port, MLFLOW_PORT, "--mlflow-port")
            self.home.mlflow.mkdir(parents=True, exist_ok=True)
            command = [
                *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(chosen)),
                # Seen from the home, where the server runs: its own name may hold what means something in a URL.
                *("--backend-store-uri", "sqlite:///mlflow/mlflow.db", "--artifacts-destination", "./mlflow/artifacts"),
                # Where uvicorn looks for modules first; it would be the home.
                *("--uvicorn-opts", "--app-dir mlflow"),
                # SQLite has one writer; more server processes would only wait for each other.
                *("--workers", "1"),
            ]
            env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            return self._start("mlflow", command, env, f"http://{LOOPBACK}:{chosen}")

    def stop(self, name: str) -> bool:
        """Stop a service of ours with all its processes; False if it does not run. Its record stays, for its port."""
        with self.home.locked("services"):
            service = self._recorded().get(name)
            process = service.process if service else None
            if process:
                end_with_children(process)
        return process is not None

    def _running_at(self, name: str, port: int | None) -> Service | None:
        """A service that runs, once it answers. Raises `EngineError` if it is at another port than was asked for."""
        service = self.running().get(name)
        if service is None:
            return None
        if port is not None and port != service.port:
            raise EngineError(f"{name} runs on port {service.port} already; `effnet-cluster down` first to use {port}")
        return service if service.ready else self._wait_for(service)

    def _choose_port(self, name: str, wanted: int | None, usual: int, flag: str) -> int:
        """The port asked for, or the last one, or, where nobody asked and it is taken, the next one that is free."""
        if wanted is not None:
            if not _is_free(wanted):
                raise EngineError(f"port {wanted} is in use; stop what uses it or choose another with {flag}")
            return wanted
        last = self._recorded().get(name)
        chosen = last.port if last and _is_free(last.port) else _first_free(usual)
        if last and chosen != last.port:
            click.echo(
                f"{name}: port {last.port} is used by something else now, so it is at {chosen}; "
                "what still runs looks for it at the old one",
                err=True,
            )
        return chosen

    def _start(
        self, name: str, command: list[str], env: Mapping[str, str], url: str, folder: Path | None = None
    ) -> Service:
        """Start a service in a folder, by default the home."""
        self.home.logs.mkdir(parents=True, exist_ok=True)
        log = self.home.logs / f"{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **child_environment(), **env},
                cwd=folder or self.home.root,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, not for the services
            )
        # Recorded before it is up: whatever becomes of this command, the next one knows of it.
        service = Service(name, process.pid, start_mark(process.pid) or "", url, str(log))
        self._record(service)
        return self._wait_for(service)

    def _wait_for(self, service: Service) -> Service:
        """Wait until a service answers. One that does not, or that is waited for in vain, is ended."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            # Another's server may have taken the port meanwhile, and answer.
            while not (_listens(service) and _answers(service.url + _HEALTH[service.name])):
                if not service.process or time.monotonic() > deadline:
                    log = Path(service.log)
                    raise EngineError(f"{service.name} did not start: {_last_line(log)} (whole log: {log})")
                time.sleep(0.2)
        except BaseException:  # Ctrl-C too
            process = service.process
            if process:
                end_with_children(process)
            raise
        service = replace(service, ready=True)
        self._record(service)
        return service

    def _recorded(self) -> dict[str, Service]:
        path = self.home.root / "services.json"
        try:
            return _SERVICES.validate_python(read_object(path))
        except FileNotFoundError:
            return {}
        except UserError as error:
            raise EngineError(f"{error}; end the services that still run, and remove it") from None
        except ValidationError:
            raise EngineError(
                f"{path} was written by another version of effnet-cluster; end the processes in it, and remove it"
            ) from None

    def _record(self, service: Service) -> None:
        services = self._recorded() | {service.name: service}
        content = json.dumps({name: asdict(service) for name, service in services.items()}, indent=1)
        write_atomically(self.home.root / "services.json", content)

    def _ray_temp(self) -> Path:
        place = self.home.root / "ray"
        if fits_sockets(str(place), RAY_SOCKET_BYTES):
            return place
        return Path("/tmp") / f"effnet-ray-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}" / "ray"


def _make_own(folder: Path) -> None:
    """Make a folder among those of other users, who may have made one of its name before."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise EngineError(f"{folder} belongs to another user; a shorter EFFNET_CLUSTER_HOME goes without it")
    make_private(folder)


def _first_free(port: int) -> int:
    """The first free port from `port` on. Systems give their outgoing connections higher ones."""
    return next((free for free in range(port, port + _PORTS) if _is_free(free)), 0) or _free_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _listens(service: Service) -> bool:
    process = service.process
    if process is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == service.port
            for member in (process, *process.children(recursive=True))
            for connection in member.net_connections("tcp")
        )
    return False


def _answers(url: str) -> bool:
    try:
        # 401 is an answer too: Ray's dashboard is up and wants the token.
        return requests.get(url, timeout=2).status_code < 500
    except requests.RequestException:
        return False


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return shorten(lines[-1]) if lines else "it printed nothing"
