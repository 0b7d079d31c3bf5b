"""How many processes load a rank's batches, and that a rank on the CPU has nothing to do with CUDA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils.data import DataLoader

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.training.execution import Execution
from effnet_cluster.orchestration.training.loaders import loader_processes, make_loaders
from effnet_cluster.orchestration.training.world import World

from .trainings import BATCH, few_digits, make_job

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("device", "cores", "expected"),
    [(CPU, 1, 0), (CPU, 8, 0), (GPU, 1, 1), (GPU, 2, 1), (GPU, 3, 2), (GPU, 12, 11), (GPU, 17, 16), (GPU, 96, 16)],
)
def test_a_gpu_gets_loader_processes_by_the_cores_of_its_worker(
    device: torch.device, cores: int, expected: int
) -> None:
    assert loader_processes(Execution(cpus_per_worker=cores), World(1, 4, 2, device)) == expected


@pytest.mark.parametrize(("ranks", "expected"), [(1, 11), (2, 5), (8, 1), (16, 1)])
def test_without_a_number_of_cores_the_ranks_of_a_node_share_them(
    ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert loader_processes(Execution(), World(0, ranks, ranks, GPU)) == expected


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("number", [0, 3])
def test_what_is_set_is_what_there_is(device: torch.device, number: int) -> None:
    execution = Execution(loader_workers=number, cpus_per_worker=8)
    assert loader_processes(execution, World(0, 2, 2, device)) == number


@pytest.mark.parametrize(("device", "processes"), [(CPU, 0), (GPU, 2)])
def test_memory_is_pinned_for_the_device_of_the_rank_whatever_gpus_are_visible(
    device: torch.device, processes: int, tmp_path: Path
) -> None:
    digits: Manifest = few_digits(tmp_path)
    job = make_job(digits, tmp_path, execution={"cpus_per_worker": 3})
    asked: list[dict[str, Any]] = []

    class Noted(DataLoader[Any]):
        def __init__(self, *given: Any, **named: Any) -> None:
            asked.append(named)
            super().__init__(*given, **named | {"pin_memory": False, "num_workers": 0})

    with (
        patch("torch.cuda.is_available", lambda: True),
        patch("effnet_cluster.datasets.reading.pipeline.DataLoader", Noted),
    ):
        train, val = make_loaders(job.trial, job.execution, digits, BATCH, World(0, 1, 1, device))
        next(train.epoch(0))
        next(iter(val))
    found = [(named["num_workers"], named["pin_memory"]) for named in asked]
    assert found == [(processes, device.type == "cuda")] * 2
