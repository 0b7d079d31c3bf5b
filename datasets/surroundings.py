"""What surrounds a process and would break it: proxies, modules in the current folder, paths too long for sockets."""

import multiprocessing.util
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress

from .errors import DataError

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""For the environment of a Python that we start: it looks for no modules in its current folder (`python -P`)."""

_PROXIES = tuple(f"{kind}_proxy" for kind in ("http", "https", "ws", "wss", "grpc", "all"))
# Programs read either; most prefer the first. gRPC has a list of its own, which wins over both.
_NO_PROXY, _NO_GRPC_PROXY = ("no_proxy", "NO_PROXY"), "no_grpc_proxy"
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less the zero at its end
RAY_SOCKET_BYTES = 67
"""How many bytes more than Ray's temporary folder the longest path of its sockets has."""
_LISTENER = "/pymp-12345678/listener-12345678"  # as multiprocessing names them
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
# What no engine takes for something else, in a path or in the URL that it makes of the path.
_PLAIN = re.compile(r"[\w ./+=@,~-]+", re.ASCII)


def reach_this_machine_directly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Except this machine's addresses from every proxy, for this process and those that it starts.

    The exceptions that are there stay; where there is no proxy, nothing changes.
    """
    if not any(value and name.lower() in _PROXIES for name, value in environment.items()):
        return
    lists = {name: environment.get(name) or environment.get(other, "") for name, other in (_NO_PROXY, _NO_PROXY[::-1])}
    if environment.get(_NO_GRPC_PROXY):
        lists[_NO_GRPC_PROXY] = environment[_NO_GRPC_PROXY]
    own = _own_addresses()
    for name, given in lists.items():
        if given.strip() != "*":  # everything; as one entry of several it would mean nothing
            entries = [entry.strip() for entry in given.split(",")]
            environment[name] = ",".join(dict.fromkeys(entry for entry in (*entries, *own) if entry))


def _own_addresses() -> list[str]:
    """Loopback's, and those with which this machine reaches others; no packet is sent to find them."""
    found = list(_LOOPBACK)
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):  # nobody's (RFC 5737)
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.append(probe.getsockname()[0])
    return found


def child_environment() -> dict[str, str]:
    """What a service that we start needs in its environment, whatever ours says.

    Raises:
        DataError: no folder for temporary files is short enough for its sockets.
    """
    return {**SAFE_PATH, "TMPDIR": socket_folder(len(_LISTENER))}


@contextmanager
def with_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Have these variables within the block, for what is started there; then those of before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def fits_sockets(folder: str, name_bytes: int) -> bool:
    """Whether sockets whose names below `folder` have so many bytes can be made, and no engine misreads the path."""
    return bool(_PLAIN.fullmatch(folder)) and len(folder) + name_bytes <= _SOCKET_PATH_BYTES


def socket_folder(name_bytes: int) -> str:
    """The folder for temporary files (`TMPDIR`), or another where that does not fit: see `fits_sockets`.

    Raises:
        DataError: none fits.
    """
    given = tempfile.gettempdir()
    for folder in (given, *_SHORT_FOLDERS):
        if fits_sockets(folder, name_bytes) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise DataError(f"TMPDIR {given}: too long for the paths of sockets, or with odd characters; name a shorter folder")


def shorten_worker_sockets() -> None:
    """Have this process's `multiprocessing` put its sockets where their paths are short enough.

    Where they are not, torch's loader workers cannot hand over what they have loaded, and their reader waits for ever.

    Raises:
        DataError: there is no such folder.
    """
    folder, before = socket_folder(len(_LISTENER)), tempfile.tempdir
    tempfile.tempdir = folder
    try:
        made = multiprocessing.util.get_temp_dir()  # and it stays that one; forked processes have the same
    finally:
        tempfile.tempdir = before
    if len(os.fsencode(made)) + len(_LISTENER.rpartition("/")[2]) + 1 > _SOCKET_PATH_BYTES:
        raise DataError(f"{made}: too long for the sockets of loader workers; set TMPDIR to a shorter folder")
