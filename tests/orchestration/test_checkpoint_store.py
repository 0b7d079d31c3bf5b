"""Checkpoints appear whole or not at all; the latest two and the best stay. Folders belong to one experiment."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from effnet_cluster.orchestration.errors import NameTakenError, UserError
from effnet_cluster.orchestration.training.checkpoint import position_name
from effnet_cluster.orchestration.training.checkpointer import Background, CheckpointStore
from effnet_cluster.orchestration.training.storage import Storage


def test_the_latest_the_one_before_and_their_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "trial"))
    assert store.names() == []
    positions = ((1, 0), (1, 500), (2, 0), (2, 500), (3, 0), (3, 500))
    best = {(2, 500): (2, 0), (3, 0): (2, 0), (3, 500): (3, 0)}
    for position in positions:
        name, kept = position_name(*position), best.get(position, (1, 0))
        store.write(name, f"{position}".encode(), position_name(*kept))
        assert store.names()[-1] == name
        assert store.read(name) == f"{position}".encode()
    assert store.names() == [position_name(2, 0), position_name(3, 0), position_name(3, 500)]


def test_a_restarted_writer_keeps_what_it_went_on_from(tmp_path: Path) -> None:
    first = CheckpointStore(str(tmp_path))
    for batch in (1, 2):
        first.write(position_name(5, batch), b"x", position_name(5, 1))
    store = CheckpointStore(str(tmp_path))
    store.go_on_from(position_name(5, 2), position_name(5, 1))
    store.write(position_name(5, 3), b"y", position_name(5, 3))
    assert store.names() == [position_name(5, batch) for batch in (1, 2, 3)]
    store.write(position_name(5, 4), b"z", position_name(5, 3))
    assert store.names() == [position_name(5, batch) for batch in (3, 4)]


def test_a_checkpoint_is_on_the_disk_before_another_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not synchronised is lost with the machine's power, and then there would be none."""
    store = CheckpointStore(str(tmp_path))
    folder = tmp_path / "checkpoints"
    events: list[tuple[str, frozenset[str]]] = []

    def sync(descriptor: int) -> None:
        events.append(
            (Path(f"/proc/self/fd/{descriptor}").readlink().name, frozenset(f.name for f in folder.iterdir()))
        )

    monkeypatch.setattr(os, "fsync", sync)
    names = [position_name(0, batch) for batch in range(1, 4)]
    for name in names:
        store.write(name, b"x", None)
    for number, name in enumerate(names):
        before = {*names[max(0, number - 2) : number]}
        assert events[2 * number : 2 * number + 2] == [
            (f"{name}.partial", before | {f"{name}.partial"}),
            ("checkpoints", before | {name}),
        ]


def test_names_sort_as_positions_do() -> None:
    positions = [(e, b) for e in (0, 1, 9, 10, 99, 100) for b in (0, 1, 10, 999, 100_000)]
    assert sorted(position_name(*p) for p in positions) == [position_name(*p) for p in positions]


def test_what_a_killed_writer_left_behind_is_no_checkpoint_and_goes_away(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path))
    store.write(position_name(1, 0), b"whole", None)
    partial = tmp_path / "checkpoints" / (position_name(1, 500) + ".partial")
    partial.write_bytes(b"who")
    assert store.names() == [position_name(1, 0)]
    store.write(position_name(2, 0), b"next", None)
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == [
        position_name(1, 0),
        position_name(2, 0),
    ]


def test_a_url_and_a_path_are_the_same_place(tmp_path: Path) -> None:
    CheckpointStore(f"file://{tmp_path}").write(position_name(0, 7), b"x", None)
    assert CheckpointStore(str(tmp_path)).read(position_name(0, 7)) == b"x"


def test_background_work_is_done_in_order_and_its_errors_come_back() -> None:
    background, done, gate = Background(), list[int](), threading.Event()
    background.submit(gate.wait)
    for number in range(5):
        background.submit(lambda number=number: done.append(number))
    assert done == []
    gate.set()
    background.wait()
    assert done == [0, 1, 2, 3, 4]

    def fail() -> None:
        raise OSError("disk full")

    gate.clear()
    background.submit(gate.wait)
    background.submit(fail)
    background.submit(lambda: done.append(5))
    gate.set()
    with pytest.raises(OSError, match="disk full"):
        background.close()
    assert done == [0, 1, 2, 3, 4], "a checkpoint would have followed one that was not written"


def test_a_folder_belongs_to_the_experiment_that_was_there_first(tmp_path: Path) -> None:
    place = str(tmp_path / "new" / "flowers")
    Storage(place).claim("mine")
    Storage(f"file://{place}").claim("mine")
    with pytest.raises(NameTakenError, match="is another experiment's; choose another --name"):
        Storage(place).claim("theirs")
    Storage(place).claim("mine")


@pytest.mark.parametrize("left", ["trials", "tune"])
def test_what_an_unknown_experiment_left_is_not_taken_over(tmp_path: Path, left: str) -> None:
    (tmp_path / left).mkdir()
    with pytest.raises(NameTakenError, match="holds an older experiment"):
        Storage(str(tmp_path)).claim("mine")
    assert [entry.name for entry in tmp_path.iterdir()] == [left]


@pytest.mark.parametrize("address", ["nosuch://x/y", "s3:///", "/proc/nothing/here", "http://x/y"])
def test_a_storage_that_cannot_be_is_told_in_one_line(address: str) -> None:
    with pytest.raises(UserError, match=f"^storage {address}") as caught:
        Storage(address).claim("mine")
    assert "\n" not in str(caught.value)
