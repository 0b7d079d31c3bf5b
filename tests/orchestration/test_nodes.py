"""What a node says of the storage, and what the autoscaler is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.orchestration import nodes
from effnet_cluster.orchestration.nodes import _look, tell_autoscaler
from effnet_cluster.orchestration.packing import Demand
from effnet_cluster.orchestration.training.storage import Storage


def test_the_autoscaler_is_told_of_every_worker_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(nodes, "request_resources", lambda bundles: told.append(bundles))
    tell_autoscaler([Demand("a", 2, 4, 1), Demand("b", 1, 3)])
    tell_autoscaler([])
    assert told == [[{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}, {"CPU": 3}], []]


@pytest.mark.parametrize(
    ("owner", "answer"), [("mine", ""), ("theirs", "it sees another folder there"), (None, "it sees nothing there")]
)
def test_a_node_says_what_it_sees_of_the_storage(tmp_path: Path, owner: str | None, answer: str) -> None:
    if owner:
        Storage(str(tmp_path)).claim(owner)
    before = sorted(tmp_path.iterdir())
    assert _look(str(tmp_path), "mine", "node-1") == answer
    assert sorted(tmp_path.iterdir()) == before, "it has left something"


def test_a_node_that_may_read_and_not_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Storage(str(tmp_path)).claim("mine")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/x")

    monkeypatch.setattr(Storage, "write", refuse)
    assert "Permission denied" in _look(str(tmp_path), "mine", "node-1")
