"""Proxies, modules in the current folder and long temporary folders: what surrounds a process does not break it."""

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.request import proxy_bypass_environment

import pytest
from requests.utils import get_environ_proxies, select_proxy

from effnet_cluster.datasets import (
    SAFE_PATH,
    DataError,
    Manifest,
    reach_this_machine_directly,
    socket_folder,
    with_environment,
)

PROXY = "http://proxy.office:3128"
OWN = ["localhost", "127.0.0.1", "[::1]"]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as _probe, suppress(OSError):
    _probe.connect(("198.51.100.1", 9))
    OWN.append(_probe.getsockname()[0])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process's, without any proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):  # noted, so that they go again
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy"])
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, []),
        ({"no_proxy": "intranet,.corp"}, ["intranet", ".corp"]),
        ({"NO_PROXY": "intranet, .corp,"}, ["intranet", ".corp"]),
        ({"no_proxy": "127.0.0.1,intranet"}, ["intranet"]),
    ],
    ids=str,
)
def test_this_machine_is_excepted_from_proxies_beside_what_was(
    environment: pytest.MonkeyPatch, proxy: str, given: dict[str, str], kept: list[str]
) -> None:
    for name, value in {proxy: PROXY, **given}.items():
        environment.setenv(name, value)
    reach_this_machine_directly()
    for name in ("no_proxy", "NO_PROXY"):
        entries = os.environ[name].split(",")
        assert set(kept) | {"localhost", "127.0.0.1", "::1"} <= set(entries)
        assert "" not in entries
        assert len(entries) == len(set(entries))
    for host in OWN:
        assert select_proxy(f"http://{host}:8265", get_environ_proxies(f"http://{host}:8265")) is None
        assert proxy_bypass_environment(f"{host}:8265")
    if proxy.lower() in ("http_proxy", "all_proxy"):
        for url in ("http://ray.example:8265", "http://10.250.0.1:8265", "http://[2001:db8::7]:5000"):
            assert select_proxy(url, get_environ_proxies(url)) == PROXY
    before = dict(os.environ)
    reach_this_machine_directly()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("given", "after"),
    [
        ({}, {}),
        ({"no_proxy": "intranet"}, {"no_proxy": "intranet"}),
        ({"http_proxy": ""}, {"http_proxy": ""}),
        ({"all_proxy": PROXY, "no_proxy": "*"}, {"all_proxy": PROXY, "no_proxy": "*"}),
    ],
    ids=str,
)
def test_where_no_proxy_is_used_nothing_changes(given: dict[str, str], after: dict[str, str]) -> None:
    reach_this_machine_directly(given)
    assert given == after


def test_grpcs_own_list_wins_over_the_other_and_gets_this_machine_too() -> None:
    given = {"grpc_proxy": PROXY, "no_grpc_proxy": "head"}
    reach_this_machine_directly(given)
    assert given["no_grpc_proxy"].split(",")[:3] == ["head", "localhost", "127.0.0.1"]


def test_a_list_that_one_spelling_hides_does_not_reach_the_other() -> None:
    given = {"http_proxy": PROXY, "no_proxy": "a", "NO_PROXY": "b"}
    reach_this_machine_directly(given)
    assert "b" not in given["no_proxy"].split(",")
    assert given["no_proxy"].startswith("a,")


# Sockets


def test_the_temporary_folder_is_used_as_long_as_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in (len(str(tmp_path)) + 10, 75, 76, 100, 150):
        folder = Path(str(tmp_path / "x").ljust(length, "x"))
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        found = socket_folder(32)
        assert len(found) + 32 <= 107
        assert (found == str(folder)) == (length <= 75)
        assert os.access(found, os.W_OK)


@pytest.mark.parametrize("name", ["ö", "a%41", "a?b", "a#b", "'a'", "a\nb"])
def test_a_temporary_folder_that_a_url_would_lose_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    assert socket_folder(0) != str(tmp_path / name)


def test_where_no_folder_fits_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 200)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match=r"^TMPDIR /xxx.*name a shorter folder$"):
        socket_folder(0)


LOADED = """
import os, sys
from effnet_cluster.datasets import EvalLoader, Manifest
loader = EvalLoader(Manifest.load(sys.argv[1]), image_size=32, resize=32, batch_size=64, loader_workers=2)
print(sum(int(batch.mask.sum()) for batch in loader))
"""


@pytest.mark.parametrize("name", ["x" * 76, "x" * 150, "ö ?#%"])
def test_loader_workers_hand_over_their_batches_whatever_the_temporary_folder(
    digits: Manifest, tmp_path: Path, name: str
) -> None:
    """At 76 characters the path of a socket is a byte too long, and torch's reader would wait for ever."""
    folder = tmp_path / name
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", LOADED, str(digits.root)],
        env={**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.stdout.strip(), run.stderr) == (str(len(digits.split("val"))), "")


# Modules in the current folder

SHADOWING = ("random", "json", "pickle", "socket", "numpy", "runpy", "types", "multiprocessing", "psutil", "torch")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder of files named as modules that everybody imports; the one that is run leaves a mark."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in SHADOWING:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'caught')!r}, 'a').write({name!r})\n")
    return folder


def test_what_lies_in_the_current_folder_is_not_run_by_worker_processes(trap: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from effnet_cluster.datasets import processes\n"
        "if __name__ == '__main__':\n"
        "    print(sorted(processes(2)(abs, [-1, 2, -3])))\n"
    )
    run = subprocess.run([sys.executable, str(script)], cwd=trap, capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("[1, 2, 3]\n", "")
    assert not (tmp_path / "caught").exists()


def test_the_trap_would_catch(trap: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import random"], cwd=trap, check=True)
    assert (tmp_path / "caught").read_text() == "random"


@pytest.mark.parametrize("before", [None, "", "1"])
def test_an_environment_ends_with_its_block(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "x")
    monkeypatch.delenv("PYTHONSAFEPATH") if before is None else monkeypatch.setenv("PYTHONSAFEPATH", before)
    with with_environment(SAFE_PATH):
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ.get("PYTHONSAFEPATH") == before
