"""Random numbers of a training step: dropout and stochastic depth."""

from __future__ import annotations

import torch


def seed_step_randomness(seed: int, step: int, rank: int) -> None:
    """Seed dropout and stochastic depth for one step of one rank.

    Seeding from (seed, step, rank), not once a process, makes a step after a restart draw what it would have drawn, so
    that no state of a generator has to be saved.
    """
    torch.manual_seed(seed * 1_000_003 + step * 10_007 + rank * 101)
