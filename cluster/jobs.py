"""Ray Jobs: the one way in which work reaches a cluster, be it the local head or a remote address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from requests.utils import get_environ_proxies, select_proxy

from ..datasets import one_line, reach_this_machine_directly, shorten
from ..orchestration.driver import ENTRYPOINT, EXPERIMENT_FILE
from ..orchestration.errors import EngineError
from ..orchestration.logs import read_log
from ..orchestration.request import ExperimentRequest
from ..orchestration.sizing.packing import Node
from ..orchestration.tracking.node_metrics import SWITCH
from ..orchestration.tracking.records import Outcome
from .ray_token import use_token
from .server_address import named_server

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PACKAGE = Path(__file__).parents[1]
_ROOMS = ("effnet", "datasets", "orchestration", "cluster")
# Of a dashboard on a machine that has more to do than cores, such as one that has just started beside two trainings.
_ANSWER_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 60
UNKNOWN = "UNKNOWN"
"""What stands for the status of a job that the cluster does not know, or no longer."""
JOB_STATES = {
    "PENDING": Outcome.PENDING,
    "RUNNING": Outcome.RUNNING,
    "SUCCEEDED": Outcome.COMPLETED,
    "FAILED": Outcome.FAILED,
    "STOPPED": Outcome.CANCELLED,
}
"""Ray's status of a job → the state of its experiment, as far as Ray knows it."""
ENDED = tuple(status for status, state in JOB_STATES.items() if state.is_terminal)
"""The statuses of a job that has ended."""
_TAIL_AGAIN_S = 1.0
_MOST_NODES = 10_000
GLIBC = {
    # Training runs in a thread, and glibc gives those arenas that it hands back to the system at every step: thousands
    # of page faults per step. One arena, which keeps what it once had, has none.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that glibc allows; larger blocks come from the system each time
}
"""The environment in which a worker's C library takes and gives back memory."""
_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # Train's page in the dashboard is empty without it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # TensorBoard's imports torch into the driver
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints every line of a worker twice
    # Seconds in which a group's workers must be placed and up; Ray's own 30 are few where others use the cluster.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # Seconds between two looks at the workers. With Ray's own 2 a group that has ended is noticed a second too late.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray would drop a line that differs from another process's in words with digits alone: other trials, other epochs.
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",  # a log is a file first
    "RAY_FLUSH_DRIVER_LOGS": "1",  # else what workers print to stdout comes 8 KiB later
    # Python's own default for these. Saying so keeps Ray from showing its RayDeprecationWarnings to everybody.
    "PYTHONWARNINGS": "ignore::DeprecationWarning",
    **GLIBC,
}


def dashboard_address(text: str) -> str:
    """The address that `--address` names, without slashes at its end. Raises `UserError` if it is none."""
    return named_server("--address", text, "the Ray dashboard's, such as http://head-node:8265")


def nodes_at(address: str) -> list[Node]:
    """The nodes of the cluster whose dashboard is at an address.

    Raises:
        EngineError: the address does not answer or refuses.
        UserError: the address is none.
    """
    address = Jobs(address).address
    with _engine_errors(address):
        from ray.util.state import list_nodes

        found = list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=_MOST_NODES, detail=True)
    return [
        Node(node.node_id, node.node_ip, *(int(node.resources_total.get(kind, 0)) for kind in ("CPU", "GPU", "memory")))
        for node in found
    ]


class Jobs:
    """A client of the Ray Jobs API at a dashboard's address, such as `http://127.0.0.1:8265`.

    Raises:
        EngineError: (any method) the address does not answer or refuses.
        UserError: the address is none.
    """

    def __init__(self, address: str) -> None:
        self.address = dashboard_address(address)
        use_token()
        reach_this_machine_directly()
        with _engine_errors(self.address):
            from ray.job_submission import JobSubmissionClient

            # Ray's client waits without end for an address that takes the connection and then says nothing.
            requests.get(f"{self.address}/api/version", timeout=_ANSWER_TIMEOUT_S)
            self._client: JobSubmissionClient = JobSubmissionClient(self.address)
            # It logs the normal end of a tail to the terminal.
            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)

    def submit(self, request: ExperimentRequest) -> None:
        """Start an experiment's driver on the cluster, as the job that the request names.

        Our code travels with the job, so that the cluster needs only the dependencies, and a job keeps the code that
        it started with whatever happens to the checkout.
        """
        with _staged(request) as folder, _engine_errors(self.address):
            self._client.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=request.job,
                runtime_env={"working_dir": str(folder), "env_vars": _ENVIRONMENT | _credentials()},
                metadata={"job_name": request.spec.name},
            )

    def status(self, job_id: str) -> str:
        """`PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`; `UNKNOWN` where the cluster has no such job."""
        with _engine_errors(self.address):
            known = {details.submission_id: details for details in self._client.list_jobs()}
        return str(known[job_id].status.value) if job_id in known else UNKNOWN

    def is_active(self, job_id: str) -> bool:
        """Whether the job still runs or waits to."""
        return self.status(job_id) in ("PENDING", "RUNNING")

    def stop(self, job_id: str) -> None:
        """Stop a job and wait until it has ended."""
        with _engine_errors(self.address):
            self._client.stop_job(job_id)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while self.is_active(job_id):
            if time.monotonic() > deadline:
                raise EngineError(f"job {job_id} at {self.address} did not stop within {_STOP_TIMEOUT_S} s")
            time.sleep(0.5)

    def logs(self, job_id: str) -> str:
        """What the job's driver and workers have printed."""
        with _engine_errors(self.address):
            return str(self._client.get_job_logs(job_id))

    async def follow_logs(self, job_id: str) -> AsyncIterator[str]:
        """What `logs` returns, in pieces as the job prints it, to the job's end. A piece may end within a line."""
        seen = 0
        while True:
            position = 0
            with _engine_errors(self.address):
                async for piece in self._tail(job_id):
                    position += len(piece)
                    if position > seen:
                        yield piece[seen - position :]
                        seen = position
            # The dashboard also ends a tail when it loses the driver's node; a new tail begins at the log's start.
            if not self.is_active(job_id):
                return
            await asyncio.sleep(_TAIL_AGAIN_S)

    async def _tail(self, job_id: str) -> AsyncIterator[str]:
        """The log from its start, in pieces, to the job's end."""
        if not select_proxy(self.address, get_environ_proxies(self.address)):
            async for piece in self._client.tail_job_logs(job_id):
                yield piece
            return
        # Ray's tail knows nothing of proxies, its other requests do.
        seen, active = 0, True
        while active:
            active = self.is_active(job_id)  # asked first: what comes last is read after it
            log = self.logs(job_id)
            yield log[seen:]
            seen = len(log)
            if active:
                await asyncio.sleep(_TAIL_AGAIN_S)

    def error_lines(self, job_id: str) -> Sequence[str]:
        """What the driver's records of level ERROR say; or its log's last line; or why Ray could not start it."""
        lines = [line for line in read_log(self.logs(job_id)) if line.text.strip()]
        own = [line for line in lines if not line.process]
        errors = [line for line in own if line.is_error]
        told = [f"{line.trial}: {line.message}" if line.trial else str(line.message) for line in errors]
        return told or [line.text.strip() for line in (own or lines)[-1:]] or self._reasons(job_id)

    def _reasons(self, job_id: str) -> list[str]:
        with _engine_errors(self.address):
            found = [details.message for details in self._client.list_jobs() if details.submission_id == job_id]
        return [shorten(" ".join(message.split())) for message in found if message]


def _credentials() -> dict[str, str]:
    """What MLflow's client logs in with, and whether it logs system metrics, as this process has it."""
    names = (*(f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN")), SWITCH)
    return {name: os.environ[name] for name in names if name in os.environ}


@contextlib.contextmanager
def _staged(request: ExperimentRequest) -> Iterator[Path]:
    """A folder with our package and the request, as the job's working directory.

    A copy, because a checkout also holds `.git` and `.venv`, which Ray would upload.
    """
    with tempfile.TemporaryDirectory() as folder:
        for room in _ROOMS:
            shutil.copytree(
                _PACKAGE / room, Path(folder, "effnet_cluster", room), ignore=shutil.ignore_patterns("__pycache__")
            )
        Path(folder, EXPERIMENT_FILE).write_text(request.model_dump_json(indent=1), "utf-8")
        yield Path(folder)


@contextlib.contextmanager
def _engine_errors(address: str) -> Iterator[None]:
    """Turn what the Ray client raises into one line that names the address."""
    import aiohttp
    from ray.exceptions import RayError

    # The job server's address is the caller's; RAY_ADDRESS would silently win over it.
    saved: Any = os.environ.pop("RAY_ADDRESS", None)
    try:
        yield
    except (requests.ConnectionError, requests.Timeout) as error:
        raise EngineError(f"Ray at {address}: no answer; is a Ray dashboard running there?") from error
    except (
        *(ConnectionError, RuntimeError, ValueError, KeyError, RayError),
        *(requests.RequestException, aiohttp.ClientError),
    ) as error:
        raise EngineError(f"Ray at {address}: {one_line(error)}") from error
    finally:
        if saved is not None:
            os.environ["RAY_ADDRESS"] = saved
