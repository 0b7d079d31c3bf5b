"""What a node says of the storage, and what the autoscaler is told."""

from __future__ import annotations

from typing import Any

import pytest

from effnet_cluster.orchestration.running import nodes
from effnet_cluster.orchestration.running.nodes import tell_autoscaler
from effnet_cluster.orchestration.sizing.packing import Demand


def test_the_autoscaler_is_told_of_every_worker_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(nodes, "request_resources", lambda bundles: told.append(bundles))
    tell_autoscaler([Demand("a", 2, 4, 1), Demand("b", 1, 3)])
    tell_autoscaler([])
    assert told == [[{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}, {"CPU": 3}], []]
