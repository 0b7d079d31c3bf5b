"""Saves a training as checkpoints in the background, and restores it from the latest one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets import Corrupt
from ..errors import UserError
from .assembly import TrainingParts
from .background import Background
from .checkpoint import TrainingProgress, check_digest, decode, encode, to_cpu
from .checkpoint_store import CheckpointStore
from .collectives import broadcast_bytes, broadcast_object, gather_over_ranks, local_buffers, set_local_buffers
from .world import World

_log = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of one training on one rank.

    Args:
        store: where they lie.
        world: this rank's place.
        digests: name the training, first, and those that it may go on from; checkpoints of others are refused.
        background: writes them; on rank 0 alone it has anything to do.
    """

    def __init__(self, store: CheckpointStore, world: World, digests: Sequence[str], background: Background) -> None:
        self._store = store
        self._world = world
        self._digests = digests
        self._background = background

    def latest(self) -> dict[str, Any] | None:
        """The content of the latest checkpoint that is whole, the same on every rank, or None. A collective.

        Rank 0 reads it and sends it to the others.

        Raises:
            UserError: none is whole, or it belongs to another specification.
            OSError: it cannot be read.
        """
        name, content = self._read_latest() if self._world.rank == 0 else ("", b"")
        name = broadcast_object(name)
        if not name:
            return None
        content = broadcast_bytes(content, self._world.device)
        where = self._store.where(name)
        state = decode(content, where, self._world.device)
        check_digest(state, self._digests, where)
        self._store.go_on_from(name, TrainingProgress(**state["progress"]).best_name)
        return state

    def _read_latest(self) -> tuple[str, bytes]:
        """Name and content of the latest checkpoint that is whole; both empty where there is none at all."""
        damaged: UserError | None = None
        for name in reversed(self._store.names()):
            content, where = self._store.read(name), self._store.where(name)
            try:
                decode(content, where, torch.device("cpu"))
            except UserError as error:
                _log.warning("%s; going on from the checkpoint before it", error)
                damaged = error
            else:
                return name, content
        if damaged:
            raise damaged
        return "", b""

    def restore(self, state: Mapping[str, Any], parts: TrainingParts) -> tuple[TrainingProgress, list[Corrupt]]:
        """Put a checkpoint's content into `parts`; returns where it goes on, and what ranks listed of that epoch."""
        parts.network.load_state_dict(state["model"])
        parts.optimizer.load_state_dict(state["optimizer"])
        parts.scaler.load_state_dict(state["scaler"])
        if parts.ema:
            parts.ema.load_state_dict(state["ema"])
        if state["buffers"] is not None:
            if len(state["buffers"]) == self._world.size:
                own = state["buffers"][self._world.rank]
            else:  # other ranks than these: what they meant together
                own = torch.stack(list(state["buffers"])).mean(0)
            set_local_buffers(own, *parts.averaged_networks)
        progress = TrainingProgress(**state["progress"])
        if self._world.rank == 0:
            at = f", batch {progress.batch}" if progress.batch else ""
            _log.info("resumed after epoch %d%s on %d workers", progress.epoch, at, self._world.size)
        return progress, [Corrupt(*entry) for entry in state["corrupt"]]

    def save(
        self,
        progress: TrainingProgress,
        parts: TrainingParts,
        corrupt: Sequence[Corrupt] | None,
        unsent: Callable[[], list[dict[str, Any]]],
    ) -> None:
        """Save the state at `progress`. A collective; the copy is made now, the file is written in the background.

        Args:
            progress: where training stands.
            parts: what is saved.
            corrupt: what this rank has listed of the epoch under way; None if nothing may be listed.
            unsent: what the sink has yet to send; asked on rank 0.
        """
        within = progress.batch > 0
        # BatchNorm's statistics belong to the rank until the epoch ends: saving must not change the training.
        buffers = gather_over_ranks([local_buffers(*parts.averaged_networks).cpu()]) if within else None
        listed = [] if corrupt is None else [list(entry) for entry in gather_over_ranks(list(corrupt))]
        if self._world.rank != 0:
            return
        self._background.wait()  # at most one copy at a time in memory
        state = to_cpu(
            {
                "spec_digest": self._digests[0],
                "progress": vars(progress),
                "facts": parts.facts.to_dict(),
                "world_size": self._world.size,
                "precision": parts.precision,
                "micro_batch": parts.undivided_micro_batch,
                "model": parts.network.state_dict(),
                "ema": parts.ema.state_dict() if parts.ema else None,
                "optimizer": parts.optimizer.state_dict(),
                "scaler": parts.scaler.state_dict(),
                "buffers": buffers,
                "corrupt": listed,
                "unsent": unsent(),
            }
        )
        name, best = progress.name, progress.best_name
        self._background.submit(lambda: self._store.write(name, encode(state), best))

    def keep_unsent(self, entries: Sequence[dict[str, Any]]) -> None:
        """Keep what the sink could not send before the training ended. Rank 0 only; raises nothing."""
        try:
            self._store.write_unsent(entries)
        except OSError as error:
            _log.warning("what MLflow did not take in time is in the last checkpoint alone: %s", error)

    def keep_example(self, images: NDArray[np.uint8]) -> None:
        """Keep images (N, H, W, 3) for whoever exports the model. Rank 0 only."""
        self._store.write_example(images)

    def address(self) -> str | None:
        """The address of the latest checkpoint, for people."""
        names = self._store.names()
        return self._store.where(names[-1]) if names else None
