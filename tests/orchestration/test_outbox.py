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
        self.received = self.asked = 0
        self.away = self.took_unconfirmed = False
        self.refusal: Exception | None = None

    def take(self, entries: Sequence[Entry]) -> None:
        self.asked += 1
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
    monkeypatch.setattr(outbox_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outbox_module, "LONGEST_PAUSE_S", 0.02)
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
    assert 1 < server.asked <= (time.monotonic() - began) / 0.01 + 2, "it waits between two attempts"
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "once, not at each attempt"
    caplog.clear()
    server.away = False
    with caplog.at_level(logging.INFO):
        outbox.drain(30)
        outbox.put(entries(101, 101)[0])
        outbox.drain(30)
    assert server.has == entries(1, 101)
    assert [record.message for record in caplog.records] == ["MLflow answers again; what was kept is being sent"]


def test_whoever_waits_for_the_server_is_told_so_from_time_to_time(
    make: Callable[..., Outbox], server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "TELL_AGAIN_S", 0.1)
    server.away = True
    outbox = make()
    outbox.put(entries(1, 1)[0])
    with pytest.raises(UnreachableError):
        outbox.drain(1.5)  # it looks every second
    told = [record.message for record in caplog.records if "training is over" in record.message]
    assert told
    assert set(told) == {"training is over; 1 entries wait for the MLflow server"}


def test_closing_sends_what_can_be_sent(make: Callable[..., Outbox], server: Server) -> None:
    server.away = True
    outbox = make()
    for entry in entries(1, 3):
        outbox.put(entry)
    comes_back = threading.Timer(0.2, setattr, (server, "away", False))
    comes_back.start()
    outbox.close(30)
    comes_back.join()
    assert server.has == entries(1, 3)


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
    with pytest.raises(EngineError, match=str(refusal)) as caught:
        outbox.drain(30)
    assert str(caught.value) == (str(refusal) if isinstance(refusal, EngineError) else "MLflow: a bug")
    with pytest.raises(EngineError, match=str(refusal)):
        outbox.put(entries(2, 2)[0])
    outbox.close(30)


@pytest.mark.parametrize("away", [False, True])
def test_closing_ends_the_thread(make: Callable[..., Outbox], server: Server, away: bool) -> None:
    server.away = away
    before = threading.active_count()
    outbox = make()
    outbox.put(entries(1, 1)[0])
    outbox.close(0.05 if away else 30)
    outbox._thread.join(5)
    assert threading.active_count() == before
