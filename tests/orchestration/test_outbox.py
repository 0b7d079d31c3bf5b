"""What is to be sent survives a server that is away and a process that is lost, and is sent in order."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from effnet_cluster.orchestration.errors import EngineError
from effnet_cluster.orchestration.tracking import outbox as outbox_module
from effnet_cluster.orchestration.tracking.outbox import Entry, Outbox
from effnet_cluster.orchestration.tracking.server import UnreachableError


class Server:
    """Takes entries, unless it is away; `took_unconfirmed` makes it take them and then not answer."""

    def __init__(self) -> None:
        self.has: list[Entry] = []
        self.received = 0
        self.away = self.took_unconfirmed = False
        self.refusal: Exception | None = None

    def take(self, entries: Sequence[Entry]) -> None:
        if self.refusal:
            raise self.refusal
        if self.away:
            raise UnreachableError("MLflow server http://x: no answer")
        self.received += len(entries)
        self.has += [entry for entry in entries if entry not in self.has]
        if self.took_unconfirmed:
            self.took_unconfirmed = False
            raise UnreachableError("MLflow server http://x: timed out")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def make(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outbox]]:
    monkeypatch.setattr(outbox_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outbox_module, "_LONGEST_PAUSE_S", 0.02)
    made: list[Outbox] = []

    def call(earlier: Sequence[Entry] = (), file: Path = tmp_path / "unsent" / "run.jsonl") -> Outbox:
        made.append(Outbox(server.take, file, earlier))
        return made[-1]

    yield call
    for outbox in made:
        outbox.close(0)


def entries(first: int, last: int) -> list[Entry]:
    return [{"at": number, "points": [[number, {"a": number / 7}]]} for number in range(first, last + 1)]


def test_entries_arrive_in_order_and_leave_no_file(make: Callable[..., Outbox], server: Server, tmp_path: Path) -> None:
    outbox = make()
    for entry in entries(1, 500):
        outbox.put(entry)
    outbox.drain(30)
    assert server.has == entries(1, 500)
    assert server.received == 500, "what was confirmed was sent again"
    assert outbox.unsent() == []
    assert list((tmp_path / "unsent").iterdir()) == []


def test_while_the_server_is_away_nothing_waits_and_nothing_is_lost(
    make: Callable[..., Outbox], server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.away = True
    outbox = make()
    began = time.monotonic()
    for entry in entries(1, 100):
        outbox.put(entry)
    assert time.monotonic() - began < 1
    assert outbox.unsent() == entries(1, 100)
    lines = (tmp_path / "unsent" / "run.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == entries(1, 100)
    with pytest.raises(UnreachableError, match="100 entries"):
        outbox.drain(0.1)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "once, not at each attempt"
    server.away = False
    outbox.drain(30)
    assert server.has == entries(1, 100)


def test_what_the_server_took_without_confirming_is_sent_again_unchanged(
    make: Callable[..., Outbox], server: Server
) -> None:
    server.took_unconfirmed = True
    outbox = make()
    for entry in entries(1, 3):
        outbox.put(entry)
    outbox.drain(30)
    assert server.has == entries(1, 3)


def test_the_next_process_sends_what_the_last_one_and_its_checkpoint_left(
    make: Callable[..., Outbox], server: Server
) -> None:
    server.away = True
    first = make()
    for entry in entries(4, 9):
        first.put(entry)
    first.close(0)
    server.away = False
    # A checkpoint after 6 had 1 to 6 unsent; 1 to 3 were sent since, before the server went away.
    server.has = entries(1, 3)
    again = make(entries(1, 6))
    again.put(entries(10, 10)[0])
    again.drain(30)
    assert server.has == entries(1, 10)


def test_a_line_that_was_torn_by_a_kill_is_left_out(
    make: Callable[..., Outbox], server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "torn.jsonl"
    file.write_text(json.dumps(entries(1, 1)[0]) + '\n{"at": 2, "poi')
    make(file=file).drain(30)
    assert server.has == entries(1, 1)


def test_without_a_file_it_works_all_the_same(
    make: Callable[..., Outbox], server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a-file").touch()
    outbox = make(file=tmp_path / "a-file" / "run.jsonl")
    for entry in entries(1, 3):
        outbox.put(entry)
    outbox.drain(30)
    assert server.has == entries(1, 3)
    assert len([record for record in caplog.records if "checkpoints alone" in record.message]) == 1


@pytest.mark.parametrize("refusal", [EngineError("MLflow server http://x: the run was deleted"), TypeError("a bug")])
def test_a_refusal_is_raised_at_the_next_call(make: Callable[..., Outbox], server: Server, refusal: Exception) -> None:
    server.refusal = refusal
    outbox = make()
    outbox.put(entries(1, 1)[0])
    with pytest.raises(EngineError, match=str(refusal)):
        outbox.drain(30)
    with pytest.raises(EngineError, match=str(refusal)):
        outbox.put(entries(2, 2)[0])
    outbox.close(30)


def test_closing_ends_the_thread_also_while_the_server_is_away(make: Callable[..., Outbox], server: Server) -> None:
    server.away = True
    before = threading.active_count()
    outbox = make()
    outbox.put(entries(1, 1)[0])
    outbox.close(0.05)
    outbox._thread.join(5)
    assert threading.active_count() == before
