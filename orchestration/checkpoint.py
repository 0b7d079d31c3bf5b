"""What a checkpoint holds, and how it is written and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import UserError

_FILE = "state.pt"
_FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """Where training stands: finished epochs, their training time in seconds, and the best validation top-1 so far."""

    epochs_done: int = 0
    seconds: float = 0.0
    best_top1: float = -1.0
    best_epoch: int = -1


def save(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, digest: str) -> None:
    """Write a checkpoint into `folder`. `network` is the bare model: no `module.` in its keys."""
    state = {
        "format": _FORMAT,
        "spec_digest": digest,
        "progress": vars(progress),
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, folder / _FILE)


def read(folder: Path, digest: str, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint, unpickling tensors and plain values only.

    Raises:
        UserError: it belongs to another specification or another format.
    """
    state: dict[str, Any] = torch.load(folder / _FILE, map_location=device, weights_only=True)
    if state["format"] != _FORMAT:
        raise UserError(f"checkpoint {folder}: format {state['format']} is not the {_FORMAT} of this version")
    if state["spec_digest"] != digest:
        raise UserError(f"checkpoint {folder} was written by another specification; submit under another --name")
    return state


def restore(state: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load a read checkpoint into the model and optimizer in place."""
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
