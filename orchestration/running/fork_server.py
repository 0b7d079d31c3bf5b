"""A process that has imported what trials need, and forks for each of a job's Ray workers: they begin at once.

A worker that begins as usual takes 5 to 9 s of a core for its imports, and 500 MB of memory that forks have in common.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...datasets import socket_folder

_CLIENT = Path(__file__).with_name("fork_client.py")
_NAME = "/effnet-fork-12345678/socket"
# What a trial's process and its workers import. None of it may start a Python thread or touch a GPU.
_ROOM = __package__.rpartition(".")[0]
_FIRST = (
    *(f"{_ROOM}.training.trainer", f"{_ROOM}.tracking.sink", f"{_ROOM}.tracking.trained"),
    *("mlflow.tracking", "mlflow.entities", "pyarrow.fs", "fsspec", "jsonschema"),
)
# With the first order's environment: Ray takes its job's id from there when it is imported, and never again.
_WITH_JOB = ("ray.train.torch", "ray.tune", f"{__package__}.trial", f"{__package__}.ray_internals")
# What a trial needs at its end, imported while nobody asks for a worker.
_LATER = ("mlflow.pytorch", "torch._dynamo", "torch.export._trace", f"{_ROOM}.report.trial_figures")
_IDLE_S = 2.0
_LIBC, _PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
# Seconds that a client gets to send its order.
_PATIENCE_S = 10.0
_log = logging.getLogger(__name__)  # left as it is: handlers would be those of the forks, too


@contextlib.contextmanager
def fork_server() -> Iterator[str]:
    """Start the server, which ends with the block or this process.

    Yields:
        Ray's `py_executable`, for the runtime environment of a job that runs on this machine alone.

    Raises:
        DataError: there is no folder for a socket.
    """
    folder = tempfile.mkdtemp(prefix="effnet-fork-", dir=socket_folder(len(_NAME)))
    address = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), folder],
            stdin=subprocess.PIPE,  # whose end tells the server that this process has ended, however it did
            pass_fds=[listener.fileno()],
            start_new_session=True,  # what stops the driver's group is not for Ray's workers
        )
    try:
        yield shlex.join([sys.executable, "-I", "-S", str(_CLIENT), address])
    finally:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork for each order; returns the order in the forked process, and None in this one when its parent has gone."""
    server = os.getpid()
    _import(_FIRST)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    later = iter(_LATER)
    idle_s: float | None = _IDLE_S
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], idle_s)
        if sys.stdin in ready:
            return None
        if not ready:
            module = next(later, None)
            _import(filter(None, [module]))
            idle_s = _IDLE_S if module else None
            continue
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_PATIENCE_S)
            try:
                order, streams = _receive(connection)
            except (OSError, ValueError) as error:
                _log.warning("fork server: an order for a worker cannot be read: %s", error)
                continue
            if "ray" not in sys.modules:
                _take_environment(order)
                _import_ray()
            if os.fork() == 0:
                _end_with(server)
                _take_streams(streams)
                return order
            _close(streams)
            with contextlib.suppress(OSError):
                connection.sendall(b"1")


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # a fork that collects garbage would copy what it shares


def _import_ray() -> None:
    """Import Ray without drawing ids: once it has drawn some, it would draw the same ones in each fork."""
    import ray.actor

    made = ray.actor.ActorClassID  # names the classes of Ray's own actors, some while they are imported
    ray.actor.ActorClassID = SimpleNamespace(from_random=lambda: made(os.urandom(made.size())))
    try:
        _import(_WITH_JOB)
    finally:
        ray.actor.ActorClassID = made


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A client's order and its standard streams."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    try:
        content = b""
        while part := connection.recv(1 << 16):
            content += part
        order: dict[str, Any] = json.loads(content)
    except BaseException:
        _close(streams)
        raise
    return order, streams


def _end_with(server: int) -> None:
    """Have this process killed when its parent has ended: nobody could find it below Ray's own processes any more."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os.kill(os.getpid(), signal.SIGKILL)


def _close(streams: Iterable[int]) -> None:
    for stream in streams:
        os.close(stream)


def _take_streams(streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    _close(streams)


def _take_environment(order: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(order["environment"])


def _become(order: dict[str, Any]) -> None:
    """Be the program that was ordered, in this forked process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # Ray kills the process group of a worker that has ended
    _take_environment(order)
    os.chdir(order["folder"])
    sys.argv = order["arguments"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    """Run as `python -m … LISTENER FOLDER`: the number of a listening socket, and its folder, which is removed."""
    order = None
    try:
        with socket.socket(fileno=int(sys.argv[1])) as listener:
            order = _serve(listener)
    finally:
        if order is None:
            shutil.rmtree(sys.argv[2], ignore_errors=True)
    if order is not None:
        _become(order)


if __name__ == "__main__":
    main()
