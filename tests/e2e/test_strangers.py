"""Two homes on one machine, each with a trial in training: neither minds the other, no other user reaches either."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from .conftest import Cli, wait_for
from .kills import checkpoints, train_workers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
T = TypeVar("T")
NAME, TRIAL = "watched", "digits-b0-w0.25-d0.25-silu-s0"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that everybody may enter and read, unlike pytest's; `user` in it is the user's home folder."""
    with tempfile.TemporaryDirectory(prefix="effnet-", dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        Path(name).chmod(0o755)
        Path(name, "user").mkdir()
        patch.setenv("HOME", str(Path(name, "user")))
        yield Path(name)


@pytest.fixture(scope="module")
def homes(place: Path) -> Iterator[list[Cli]]:
    """Two homes that were open to all: one of them too deep for Ray's sockets, which go to /tmp then."""
    homes = [Cli(place / "home"), Cli(place / "home-of-a-name-that-is-too-long-for-sockets")]
    try:
        for cli in homes:
            cli.home.mkdir()
            cli.home.chmod(0o777)
            sizes = ("--variants", "b0-w0.25-d0.25", "--workers", "2", "--epochs", "1000", "--checkpoint-steps", "5")
            cli("submit", *sizes, "--name", NAME, "--detach", timeout=180)
        wait_for(lambda: all(checkpoints(cli, NAME, TRIAL) for cli in homes), 300, "a checkpoint of both trials")
        yield homes
    finally:
        for cli in homes:
            cli("down", "--force", timeout=180, check=False)


def family(cli: Cli) -> list[psutil.Process]:
    services = [psutil.Process(service["pid"]) for service in cli.services().values()]
    return [*services, *(child for service in services for child in service.children(recursive=True))]


def look(cli: Cli, at: Callable[[psutil.Process], Iterable[T]]) -> Iterator[tuple[psutil.Process, T]]:
    """What there is at each process of a home; some processes end meanwhile."""
    for process in family(cli):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            yield from ((process, found) for found in list(at(process)))


def ranks(cli: Cli) -> list[psutil.Process]:
    return train_workers(psutil.Process(cli.services()["ray"]["pid"]))


def test_while_two_workers_train_everything_listens_on_loopback_alone(homes: list[Cli]) -> None:
    for cli in homes:
        listening = {
            (process, connection.laddr.ip)
            for process, connection in look(cli, lambda process: process.net_connections("inet"))
            if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
        }
        assert len(ranks(cli)) == 2
        for rank in ranks(cli):
            assert rank in {process for process, _ in listening}
        assert {entry for entry in listening if entry[1] not in LOOPBACK} == set()


def test_homes_and_token_are_closed(homes: list[Cli], place: Path) -> None:
    for cli in homes:
        assert cli.home.stat().st_mode & 0o777 == 0o700
    assert Path(place, "user", ".ray", "auth_token").stat().st_mode & 0o777 == 0o600


@needs_root
def test_another_user_can_neither_read_nor_write_anything_of_ours(homes: list[Cli], place: Path) -> None:
    folders = {place / "user" / ".ray" / "auth_token", *(cli.home for cli in homes)}
    # And wherever our processes have files or sockets: Ray's folder, temporary folders.
    for cli in homes:
        files = {file.path for _, file in look(cli, lambda process: process.open_files())}
        sockets = {str(found.laddr) for _, found in look(cli, lambda process: process.net_connections("unix"))}
        folders |= {Path(file).parent for file in files | sockets if file.startswith("/tmp/")}
    assert {folder.is_relative_to(place) for folder in folders} == {True, False}
    reach = ["find", *map(str, folders), "(", "-readable", "-o", "-writable", "-o", "-executable", ")"]
    found = subprocess.run([*AS_NOBODY, *reach], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert "Permission denied" in found.stderr
    # To their owner there are many.
    assert len(subprocess.run(reach, capture_output=True, text=True, check=False).stdout.splitlines()) > 100


def test_no_process_tells_the_token_to_those_who_list_processes(homes: list[Cli], place: Path) -> None:
    token = Path(place, "user", ".ray", "auth_token").read_text().strip()
    assert len(token) > 20
    for cli in homes:
        said = {" ".join(words) for _, words in look(cli, lambda process: [process.cmdline()])}
        assert len(said) > 10
        assert not [line for line in said if token in line]


def test_a_job_keeps_to_its_own_cluster_beside_another(homes: list[Cli]) -> None:
    addresses = [{process.environ().get("RAY_ADDRESS") for process in ranks(cli)} for cli in homes]
    assert [len(found) for found in addresses] == [1, 1]
    assert addresses[0] != addresses[1]
    for cli in homes:
        log = cli("logs", NAME).stdout
        assert f"[{TRIAL}]" in log
        assert "multiple active Ray instances" not in log


def test_a_killed_server_comes_back_where_the_trial_looks_for_it(homes: list[Cli]) -> None:
    """The second home's, which is not at the usual port: that was the first one's."""
    cli = homes[1]
    before = cli.services()
    assert not before["mlflow"]["url"].endswith(":5000")
    server = psutil.Process(before["mlflow"]["pid"])
    for process in [server, *server.children(recursive=True)]:
        process.kill()
    wait_for(lambda: "mlflow" not in cli.services(), 30, "the end of the server")
    assert "mlflow:" not in cli("up", timeout=180).stderr  # it need not move
    assert cli.services()["mlflow"]["url"] == before["mlflow"]["url"]
    assert cli.services()["ray"] == before["ray"]

    def epochs() -> float:
        return float(cli.trial_runs(NAME)[TRIAL].data.metrics.get("epoch", 0))

    told = epochs()
    wait_for(lambda: epochs() > told, 180, "the trial's next epoch")
