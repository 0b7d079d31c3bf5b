"""Did a trial train on exactly the samples that it should have? Its receipts against the manifest, epoch by epoch.

The receipt of an epoch is a hash of the samples that it consumed; every trial logs one per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...datasets import BatchSequence, EpochOrder, Manifest
from .records import TrialRecord
from .runs import Tracker


@dataclass(frozen=True)
class EpochCheck:
    """One epoch of a trial, counted from 1 as in MLflow; `problem` is None where the receipt is the manifest's."""

    epoch: int
    problem: str | None = None


def check_receipts(tracker: Tracker, record: TrialRecord, manifest: Manifest) -> Iterator[EpochCheck]:
    """Recompute the receipt of every epoch that a trial has logged, from the manifest alone, and compare.

    Args:
        tracker: the trial's experiment.
        record: the trial.
        manifest: of the data set that it names. Its digest must be the one that the trial was planned with.

    Raises:
        EngineError: the tracking server cannot be reached.
    """
    epochs = range(1, record.epochs_done + 1)
    if record.data_digest != manifest.digest:
        problem = f"the data set is another one now: digest {manifest.digest[:12]}, not {record.data_digest[:12]}"
        yield from (EpochCheck(epoch, problem) for epoch in epochs)
        return
    order = EpochOrder(manifest.split("train").shard_samples, record.seed, record.shuffle_block)
    sequence = BatchSequence(order, record.global_batch, record.tail)
    logged = tracker.receipts(record.run_id)
    for epoch in epochs:
        yield EpochCheck(epoch, _difference(logged.get(epoch), sequence.receipt(epoch - 1)))


def _difference(found: int | None, expected: int) -> str | None:
    if found is None:
        return "no receipt was logged"
    if found != expected:
        return f"consumed samples {found:016x}, the manifest says {expected:016x}"
    return None
