"""`TrialJob`: all that a worker of a trial is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..plan import TrialPlan

if TYPE_CHECKING:
    from ...datasets import OnCorrupt


@dataclass(frozen=True)
class TrialJob:
    """All that a worker is told.

    `storage` is the trial's folder or URL, which every node sees; `cache_root` a folder on the worker's own node;
    `checkpoint_steps` are the optimizer steps between two checkpoints within an epoch; `micro_batch_divisor` makes the
    micro-batches so many times smaller, after a worker ran out of memory.
    """

    trial: TrialPlan
    data: str
    data_digest: str
    loader_workers: int
    cache_limit: int | None
    on_corrupt: OnCorrupt
    spec_digest: str
    tracking_uri: str
    experiment: str
    run_id: str
    cache_root: str
    storage: str
    checkpoint_steps: int
    micro_batch_divisor: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for Ray's `train_loop_config`."""
        return vars(self) | {"trial": self.trial.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrialJob:
        """The inverse of `to_dict`."""
        return cls(**fields | {"trial": TrialPlan.from_dict(fields["trial"])})
