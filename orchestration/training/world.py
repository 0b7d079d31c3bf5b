"""A rank's place among the processes that train one model together."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """What a launcher tells a rank.

    Attributes:
        rank, size: this process among all ranks.
        local_size: how many of the ranks are on this node.
        device: what this rank computes on.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
