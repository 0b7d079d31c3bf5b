"""The embedded engines: a local Ray head and an MLflow server as background services on loopback.

They outlive the command that started them, and are told apart from other people's Ray and MLflow by process id and
start time, so that `down` never stops a stranger.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import requests

from ..datasets import write_atomically
from ..orchestration.errors import EngineError
from .home import Home
from .ray_token import ensure_token

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8265
MLFLOW_PORT = 5000
_START_TIMEOUT_S = 120
# Longer temporary folders break Ray: its socket paths must stay under 107 bytes, and about 64 are Ray's own.
_MAX_RAY_TEMP = 40
# Samples travel as files and gradients through DDP; the object store only holds small control messages.
_OBJECT_STORE_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Service:
    """A background process of ours. `started` is its start time (seconds since 1970), as a check against reused ids."""

    name: str
    pid: int
    started: float
    url: str
    log: str

    @property
    def process(self) -> psutil.Process | None:
        """The process, or None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None


class Services:
    """The services of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def running(self) -> dict[str, Service]:
        """What runs now, by name (`ray`, `mlflow`)."""
        return {name: service for name, service in self._recorded().items() if service.is_running}

    def ensure_ray(self, port: int | None = None) -> Service:
        """The local Ray head, started if none of ours runs. `port` is the dashboard's; None: 8265 or a free one."""
        with self.home.locked("services"):
            running = self.running().get("ray")
            if running:
                _check_same_port(running, port)
                return running
            dashboard = _choose_port(port, DASHBOARD_PORT, "--dashboard-port")
            ensure_token()
            command = [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address", LOOPBACK, "--port", str(_free_port())),
                *("--dashboard-host", LOOPBACK, "--dashboard-port", str(dashboard), "--include-dashboard", "true"),
                *("--dashboard-agent-listen-port", str(_free_port()), "--ray-client-server-port", str(_free_port())),
                *("--object-store-memory", str(_OBJECT_STORE_BYTES), "--temp-dir", str(self._ray_temp())),
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
            return self._start("ray", command, env, f"http://{LOOPBACK}:{dashboard}", "/api/version")

    def ensure_mlflow(self, port: int | None = None) -> Service:
        """The local MLflow server over SQLite, started if none of ours runs. It alone opens the database."""
        with self.home.locked("services"):
            running = self.running().get("mlflow")
            if running:
                _check_same_port(running, port)
                return running
            chosen = _choose_port(port, MLFLOW_PORT, "--mlflow-port")
            self.home.mlflow.mkdir(parents=True, exist_ok=True)
            command = [
                *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(chosen)),
                *("--backend-store-uri", f"sqlite:///{self.home.mlflow / 'mlflow.db'}"),
                *("--artifacts-destination", str(self.home.mlflow / "artifacts")),
                # SQLite has one writer; more server processes would only wait for each other.
                *("--workers", "1"),
            ]
            env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            return self._start("mlflow", command, env, f"http://{LOOPBACK}:{chosen}", "/health")

    def stop(self, name: str) -> bool:
        """Stop a service of ours with all its processes; False if it does not run."""
        with self.home.locked("services"):
            service = self.running().get(name)
            if service:
                _end(service)
            self._record({key: value for key, value in self._recorded().items() if key != name})
        return service is not None

    def _start(self, name: str, command: list[str], env: Mapping[str, str], url: str, health: str) -> Service:
        self.home.logs.mkdir(parents=True, exist_ok=True)
        log = self.home.logs / f"{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=self.home.root,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, not for the services
            )
        service = Service(name, process.pid, psutil.Process(process.pid).create_time(), url, str(log))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(url + health):
            if process.poll() is not None or time.monotonic() > deadline:
                _end(service)
                raise EngineError(f"{name} did not start: {_last_line(log)} (whole log: {log})")
            time.sleep(0.2)
        self._record(self._recorded() | {name: service})
        return service

    def _recorded(self) -> dict[str, Service]:
        try:
            entries = json.loads((self.home.root / "services.json").read_text())
        except FileNotFoundError:
            return {}
        return {name: Service(**fields) for name, fields in entries.items()}

    def _record(self, services: Mapping[str, Service]) -> None:
        content = json.dumps({name: asdict(service) for name, service in services.items()}, indent=1)
        path = self.home.root / "services.json"
        write_atomically(path, content)

    def _ray_temp(self) -> Path:
        place = self.home.root / "ray"
        if len(str(place)) <= _MAX_RAY_TEMP:
            return place
        return Path("/tmp") / f"effnet-ray-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _check_same_port(service: Service, wanted: int | None) -> None:
    actual = urlsplit(service.url).port
    if wanted is not None and wanted != actual:
        raise EngineError(f"{service.name} runs on port {actual} already; `effnet-cluster down` first to use {wanted}")


def _choose_port(wanted: int | None, usual: int, flag: str) -> int:
    """The port asked for, or the usual one, or, where nobody asked and it is taken, any free one."""
    if wanted is None:
        return usual if _is_free(usual) else _free_port()
    if not _is_free(wanted):
        raise EngineError(f"port {wanted} is in use; stop what uses it or choose another with {flag}")
    return wanted


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


def _answers(url: str) -> bool:
    try:
        # 401 is an answer too: Ray's dashboard is up and wants the token.
        return requests.get(url, timeout=2).status_code < 500
    except requests.RequestException:
        return False


def _end(service: Service) -> None:
    """Terminate a service and everything that it started; what has not ended after ten seconds is killed."""
    process = service.process
    if process is None:
        return
    family = [*process.children(recursive=True), process]
    for member in reversed(family):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, timeout=5)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"
