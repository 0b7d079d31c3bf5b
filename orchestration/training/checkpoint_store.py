"""Where the checkpoints of a trial lie: the latest two and the best ones.

Ours, beside Ray Train's own: a checkpoint within an epoch must neither wait for all ranks nor pass for the best epoch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .storage import Storage

SUFFIX = ".pt"
FOLDER = "checkpoints"
_UNSENT_FILE, _EXAMPLE_FILE = "unsent.json", "example.npy"


class CheckpointStore:
    """The checkpoints of one trial.

    Args:
        root: the trial's folder, or its URL.
    """

    def __init__(self, root: str) -> None:
        self._storage = Storage(root)
        # What the last checkpoint needs: it is the way back while the next one is being written, and after that.
        self._previous: set[str] = set()

    def names(self) -> list[str]:
        """The complete checkpoints, the earliest position first."""
        return [name for name in self._storage.names(FOLDER) if name.endswith(SUFFIX)]

    def where(self, name: str) -> str:
        """The address of a checkpoint, for people."""
        return self._storage.where(f"{FOLDER}/{name}")

    def read(self, name: str) -> bytes:
        """The content of a checkpoint.

        Raises:
            OSError: it cannot be read.
        """
        return self._storage.read(f"{FOLDER}/{name}")

    def write(self, name: str, content: bytes, best: str | None) -> None:
        """Add a checkpoint, then remove all but it and the one before, and the best checkpoints that they name.

        Raises:
            OSError: it cannot be written; what was there is still there.
        """
        self._storage.write(f"{FOLDER}/{name}", content)
        kept = self.go_on_from(name, best)
        for other in self._storage.names(FOLDER):
            if other not in kept:
                self._storage.delete(f"{FOLDER}/{other}")

    def go_on_from(self, name: str, best: str | None) -> set[str]:
        """Note the latest checkpoint; returns which ones are kept from now on."""
        current = {name, best} if best else {name}
        kept, self._previous = current | self._previous, current
        return kept

    def write_unsent(self, entries: Sequence[dict[str, Any]]) -> None:
        """Keep what a training that has ended could not send, or note that there is nothing of that kind.

        Raises:
            OSError: it cannot be written.
        """
        if entries:
            self._storage.write(_UNSENT_FILE, json.dumps(entries).encode())
        else:
            self._storage.delete(_UNSENT_FILE)

    def unsent(self) -> list[dict[str, Any]]:
        """What the last call of `write_unsent` kept; nothing before the first.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return list(json.loads(self._storage.read(_UNSENT_FILE)))
        except FileNotFoundError:
            return []

    def write_example(self, images: NDArray[np.uint8]) -> None:
        """Keep images (N, H, W, 3) with which the trained model can be traced.

        Raises:
            OSError: it cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, images)
        self._storage.write(_EXAMPLE_FILE, buffer.getvalue())

    def example(self) -> NDArray[np.uint8]:
        """What `write_example` kept.

        Raises:
            OSError: it cannot be read.
        """
        images: NDArray[np.uint8] = np.load(io.BytesIO(self._storage.read(_EXAMPLE_FILE)))
        return images

    def write_beside(self, name: str, content: bytes) -> None:
        """Write or replace a file beside the checkpoints.

        Raises:
            OSError: it cannot be written.
        """
        self._storage.write(name, content)
