"""Checkpoints appear whole or not at all; the latest and the best stay."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from effnet_cluster.orchestration.training.checkpoint import TrainingProgress, position_name
from effnet_cluster.orchestration.training.checkpointer import Background, CheckpointStore


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "trial"))
    assert store.names() == []
    best = TrainingProgress(epoch=3, best_epoch=1)
    for epoch, batch in ((1, 0), (1, 500), (2, 0), (2, 500), (3, 0)):
        name = position_name(epoch, batch)
        store.write(name, f"{epoch} {batch}".encode(), {best.best_name or ""})
        assert store.names()[-1] == name
        assert store.read(name) == f"{epoch} {batch}".encode()
    assert store.names() == [position_name(2, 0), position_name(3, 0)]
    assert best.best_name == position_name(2, 0)


def test_names_sort_as_positions_do() -> None:
    positions = [(e, b) for e in (0, 1, 9, 10, 99, 100) for b in (0, 1, 10, 999, 100_000)]
    assert sorted(position_name(*p) for p in positions) == [position_name(*p) for p in positions]


def test_what_a_killed_writer_left_behind_is_no_checkpoint_and_goes_away(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path))
    store.write(position_name(1, 0), b"whole", set())
    partial = tmp_path / "checkpoints" / (position_name(1, 500) + ".partial")
    partial.write_bytes(b"who")
    assert store.names() == [position_name(1, 0)]
    store.write(position_name(2, 0), b"next", set())
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == [position_name(2, 0)]


def test_a_url_and_a_path_are_the_same_place(tmp_path: Path) -> None:
    CheckpointStore(f"file://{tmp_path}").write(position_name(0, 7), b"x", set())
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
    assert done == [0, 1, 2, 3, 4], "a checkpoint would have followed metrics that were not logged"
