"""The average in shared memory as such, with threads for ranks; under DDP it is in `test_distributed`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_cluster.orchestration.training.shared_average import SharedAverage

T = TypeVar("T")


def on_ranks(world_size: int, part: int, work: Callable[[SharedAverage, int], T]) -> list[T]:
    """What `work` returns on each rank of a memory with `part` bytes for each."""
    memory = torch.full((world_size + 1, part), 0xFF, dtype=torch.uint8)  # whatever is read unwritten is NaN
    pairs = [socket.socketpair() for _ in range(world_size - 1)]
    links = [[near for near, _ in pairs], *([far] for _, far in pairs)]
    averages = [SharedAverage(memory, links[rank], rank) for rank in range(world_size)]
    try:
        with ThreadPoolExecutor(world_size) as pool:
            return list(pool.map(work, averages, range(world_size)))
    finally:
        for average in averages:
            average.close()


@given(
    st.lists(
        st.tuples(st.integers(1, 3000), st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
        min_size=1,
        max_size=4,
    ),
    st.integers(2, 5),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_every_rank_gets_the_mean_in_the_order_of_the_ranks(
    sizes: list[tuple[int, torch.dtype]], world_size: int, units: int
) -> None:
    random = torch.Generator().manual_seed(world_size)
    values = [[torch.randn(n, generator=random).to(kind) for n, kind in sizes] for _ in range(world_size)]
    expected = [sum(of_ranks[1:], of_ranks[0]) / world_size for of_ranks in zip(*values, strict=True)]

    def work(average: SharedAverage, rank: int) -> list[torch.Tensor]:
        own = [value.clone() for value in values[rank]]
        for value in own:
            average(value)
        return own

    for found in on_ranks(world_size, 4096 * units, work):
        for value, mean in zip(found, expected, strict=True):
            assert torch.equal(value, mean)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_nobody_passes_a_barrier_before_all_are_there(world_size: int) -> None:
    arrived = [0] * world_size

    def work(average: SharedAverage, rank: int) -> list[int]:
        seen = []
        for number in range(1, 4):
            time.sleep(0.02 * ((rank + number) % world_size))
            arrived[rank] = number
            average.barrier()
            seen.append(min(arrived))
        return seen

    assert all(seen[number] >= number + 1 for seen in on_ranks(world_size, 4096, work) for number in range(3))
