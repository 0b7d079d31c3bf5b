"""Where two nested values differ, such as the contents of two checkpoints."""

from __future__ import annotations

from typing import Any

import torch


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two nested values differ, tensors by their bits."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [where]
        return [line for key in first for line in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, list | tuple):
        pairs = enumerate(zip(first, second, strict=True))
        return [line for number, (a, b) in pairs for line in differences(a, b, f"{where}/{number}")]
    return [] if first == second else [where]
