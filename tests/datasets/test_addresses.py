"""Addresses from anywhere: understood, or refused in one short line that tells no secret."""

import shutil
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.datasets import DataError, Manifest, Shard, Split, open_dataset, server_address, verify_shards
from effnet_cluster.datasets.addresses import DATA_SCHEMES, checked_address, folder_of, is_address, parse_address
from effnet_cluster.datasets.remote import require_same_server

from .servers import http_server

BAD = [
    "http://[abc/x",
    "http://[abc]/x",
    "http://[::1/x",
    "http://::1/x",
    "http://host:port/x",
    "http://host:99999/x",
    "http://host:0/x",
    "http://host:-1/x",
    "http://ho st/x",
    "http://ho\nst/x",
    "http://host/x\ny",
    "http://host/x\x1b[31m",
    "http://a..b/x",
    "http://" + "a" * 64 + "/x",
    "http://" + "a." * 200 + "a/x",
    "http://host/" + "x" * 3000,
    "http://\\host/x",
    "http://%00/x",
    "http://?x",
    "http://",
    "http:///x",
    "://x",
    "a::b",
    "",
    "http://simplecache::s3://x/y",
    "http://host/x::file:///etc",
]


def parsers() -> list[Callable[[str], object]]:
    return [checked_address, lambda text: server_address(text, "expected a server")]


@pytest.mark.parametrize("parse", parsers())
@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_told_in_one_short_line(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 450


@given(text=st.text(max_size=60) | st.text("htp:/[]@%?#.0a\\ \n", max_size=30).map(lambda rest: f"http://{rest}"))
def test_any_text_is_an_address_or_a_line(text: str) -> None:
    for parse in (*parsers(), folder_of, lambda text: parse_address(text, DATA_SCHEMES, "expected one")):
        assert told(parse, text).isprintable()


def told(parse: Callable[[str], object], text: str) -> str:
    """The error, if there is one."""
    try:
        parse(text)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "host", ["[::1]", "[fe80::1%25eth0]", "127.0.0.1", "host", "my_host.example", "b\u00fccher.de"]
)
def test_servers_of_every_kind_of_name_are_understood(host: str) -> None:
    for port in ("", ":8265"):
        assert server_address(f"http://{host}{port}//", "expected") == f"http://{host}{port}"
        assert checked_address(f"https://{host}{port}/x/") == f"https://{host}{port}/x"
    parsed = parse_address("http://[::1]:80/x", ("http",), "")
    assert (parsed.host, parsed.port) == ("::1", 80)
    assert parsed.origin == parse_address("http://[::1]/y", ("http",), "").origin


def test_secrets_are_not_told() -> None:
    for text in (
        "http://me:secret@[abc/x",
        "http://me:secret@host:x/",
        "ftp://me:secret@host/x?secret",
        "http://h/?secret",
    ):
        for parse in parsers():
            with pytest.raises(DataError) as caught:
                parse(text)
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ref", ["file://[abc/x", "file://elsewhere/x", "file:///x\ny", "file://"])
def test_a_file_address_of_no_folder_here_is_refused(ref: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of this machine"):
        open_dataset(ref, tmp_path)


def test_a_path_with_brackets_is_no_address() -> None:
    assert not is_address("[abc]/x")
    assert is_address("http://[::1]/x")


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def server(handler: type[BaseHTTPRequestHandler], kind: type[HTTPServer] = ThreadingHTTPServer) -> Iterator[int]:
    try:
        running = kind(("::1" if kind is Server6 else "127.0.0.1", 0), handler)
    except OSError:
        pytest.skip("no IPv6 here")
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield running.server_port
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def serving(root: Path, redirect: Callable[[str], str] | None = None) -> type[BaseHTTPRequestHandler]:
    """A server of `root`; what it has no file for it redirects to `redirect(path)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = root / self.path.lstrip("/")
            if redirect is not None and not file.is_file():
                self.send_response(302)
                self.send_header("Location", redirect(self.path))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def test_a_data_set_at_an_ipv6_address_is_read(photo_shards: Manifest, tmp_path: Path) -> None:
    with server(serving(photo_shards.root), Server6) as port:
        remote = open_dataset(f"http://[::1]:{port}", tmp_path, 2**30)
        assert remote.digest == photo_shards.digest
        assert list(verify_shards(remote)) == []


def test_redirects_within_a_server_are_followed(photo_shards: Manifest, tmp_path: Path) -> None:
    with server(serving(photo_shards.root, lambda path: path.replace("/latest/", "/"))) as port:
        remote = open_dataset(f"http://127.0.0.1:{port}/latest", tmp_path, 2**30)
        assert remote.digest == photo_shards.digest
        assert list(verify_shards(remote)) == []


def test_redirects_to_another_server_are_refused_before_it_is_asked(photo_shards: Manifest, tmp_path: Path) -> None:
    with http_server(photo_shards.root) as (elsewhere, behaviour):
        host = elsewhere.removeprefix("http://")
        for target in (elsewhere, f"http://me:secret@{host}", "file:///etc", "http://[abc", "ftp://host"):
            with server(serving(tmp_path, lambda path, target=target: f"{target}{path}")) as port:  # type: ignore[misc]
                with pytest.raises(DataError, match=r"manifest\.json") as caught:
                    open_dataset(f"http://127.0.0.1:{port}/latest", tmp_path / "cache", 2**30)
                assert "redirects" in str(caught.value)
                assert str(caught.value).isprintable()
                assert "secret" not in str(caught.value)
        assert not behaviour.requests


@pytest.mark.parametrize(
    ("before", "after", "fine"),
    [
        ("http://a/x", "https://a/x", True),
        ("https://a/x", "https://a:443/y", True),
        ("https://a/x", "http://a/x", False),
        ("http://a/x", "http://a:81/x", False),
        ("http://a/x", "https://b/x", False),
    ],
)
def test_only_an_upgrade_changes_the_scheme_of_a_redirect(before: str, after: str, fine: bool) -> None:
    if fine:
        require_same_server(before, after)
    else:
        with pytest.raises(DataError, match="another server"):
            require_same_server(before, after)


def numbers(samples: int, root: Path) -> Manifest:
    """A manifest of so many samples that nobody has."""
    counts = np.arange(samples, dtype=np.int64)
    split = Split(
        (Shard("0.tar", 2**40, "0" * 64, samples),),
        np.zeros(samples, np.int32),
        counts * 1024,
        np.full(samples, 512, np.int64),
        np.zeros(samples, np.int32),
        np.array([b"%020d" % number for number in range(samples)]),
    )
    manifest = Manifest(root, "numbers", ("a",), 8, True, {"train": split})
    manifest.save()
    return manifest


def test_an_index_is_held_once_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = 200_000
    numbers(samples, tmp_path)
    size = (tmp_path / "index.npz").stat().st_size
    assert size > samples * 44

    def from_disk(address: str, _: int) -> Iterator[bytes]:
        with (tmp_path / address.rpartition("/")[2]).open("rb") as file:
            while chunk := file.read(2**16):
                yield chunk

    monkeypatch.setattr("effnet_cluster.datasets.remote.stream", from_disk)
    tracemalloc.start()
    try:
        loaded = open_dataset("http://host/x", tmp_path / "cache", 2**30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(loaded.splits["train"]) == samples
    assert peak < 1.9 * size  # the checks have columns of their own


@pytest.mark.parametrize("remote", [False, True])
def test_an_index_larger_than_its_samples_need_is_refused(photo_shards: Manifest, tmp_path: Path, remote: bool) -> None:
    root = Path(shutil.copytree(photo_shards.root, tmp_path / "served"))
    with (root / "index.npz").open("ab") as file:
        file.truncate(2**20)
    with (
        http_server(root) as (address, _),
        pytest.raises(DataError, match=r"index\.npz: .*more than the [\d,]+") as caught,
    ):
        open_dataset(address if remote else str(root), tmp_path / "cache", 2**30)
    assert str(caught.value).isprintable()


def test_a_manifest_larger_than_any_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(DataError, match=r"manifest\.json: 67,108,865 bytes, more than the 67,108,864 allowed"):
        Manifest.load(tmp_path)
