"""Random numbers of a training step: dropout and stochastic depth."""

from __future__ import annotations

import torch


def seed_step_randomness(seed: int, step: int, rank: int) -> None:
    """Seed dropout and stochastic depth for one step of one rank.

    The seed follows from (seed, step, rank), so a step draws the same numbers before and after a restart. No state of a
    generator has to be saved.
    """
    number = seed * 1_000_003 + step * 10_007 + rank * 101
    # `torch.manual_seed` goes through every kind of device that there might be, which takes a hundred times as long.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(number)
