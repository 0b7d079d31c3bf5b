"""What a checkpoint holds, and how it is written and read."""

from __future__ import annotations

from collections.abc import Mapping
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


def save(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    digest: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a checkpoint into `folder`.

    Args:
        folder: exists.
        network: the bare model: no `module.` in its keys.
        optimizer: its optimizer.
        progress: where training stands.
        digest: of the specification that it belongs to.
        facts: `ModelFacts.to_dict()`; with them the file alone says what network it holds.
    """
    state = {
        "format": _FORMAT,
        "spec_digest": digest,
        "progress": vars(progress),
        "facts": dict(facts),
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


def read_model(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict and the facts of a checkpoint, on the CPU; unpickles tensors and plain values only.

    Args:
        path: a checkpoint's folder, or its file.

    Raises:
        UserError: it is no checkpoint of ours, damaged, or of another format; the message names it.
    """
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path} is no checkpoint: it has no {_FILE}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what the zip reader and the unpickler raise on foreign files has no common type
        raise UserError(f"{file} is no checkpoint, or a damaged one ({type(error).__name__})") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT or "model" not in state:
        raise UserError(f"{file} is no checkpoint in this version's format {_FORMAT}")
    return dict(state["model"]), dict(state.get("facts") or {})


def restore(state: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load a read checkpoint into the model and optimizer in place."""
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
