"""Cores next to a GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from effnet_cluster.orchestration.training.affinity import stay_near

CUDA = torch.device("cuda", 0)


@pytest.fixture
def allowed() -> Iterator[set[int]]:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    yield before
    os.sched_setaffinity(0, before)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the list of cores next to the only GPU, which sits at 0001:3b:00.0."""
    found = SimpleNamespace(pci_domain_id=1, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    folder = tmp_path / "0001:3b:00.0"
    folder.mkdir()
    return folder / "local_cpulist"


def cores_of_a_thread() -> set[int]:
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    return found[0]


def test_a_rank_and_what_it_starts_stay_next_to_its_gpu(card: Path, allowed: set[int]) -> None:
    near = max(allowed)
    card.write_text(f"{near},{max(allowed) + 1}-{max(allowed) + 8}\n")
    stay_near(CUDA, card.parent.parent)
    assert os.sched_getaffinity(0) == {near}
    assert cores_of_a_thread() == {near}


@pytest.mark.parametrize("listed", ["", "4096-4099,5000", None])
def test_cores_stay_where_none_is_known_or_allowed(card: Path, allowed: set[int], listed: str | None) -> None:
    if listed is not None:
        card.write_text(listed + "\n")
    stay_near(CUDA, card.parent.parent)
    assert os.sched_getaffinity(0) == allowed


def test_a_rank_on_a_cpu_keeps_its_cores(card: Path, allowed: set[int]) -> None:
    card.write_text(f"{max(allowed)}\n")
    stay_near(torch.device("cpu"), card.parent.parent)
    assert os.sched_getaffinity(0) == allowed
