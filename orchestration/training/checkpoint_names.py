"""Names of checkpoints, which sort as their positions in the training do. Without torch."""

from __future__ import annotations

import re

from .checkpoint_store import SUFFIX

_POSITION = re.compile(rf"epoch-(\d{{6}})-batch-(\d{{9}}){re.escape(SUFFIX)}")


def position_name(epoch: int, batch: int) -> str:
    """The name of the checkpoint before `batch` of `epoch`, both counted from 0."""
    return f"epoch-{epoch:06d}-batch-{batch:09d}{SUFFIX}"


def epoch_of(name: str) -> int | None:
    """How many epochs are finished in the checkpoint of that name; None if it is within one, or no checkpoint."""
    found = _POSITION.fullmatch(name)
    return int(found[1]) if found and int(found[2]) == 0 else None
