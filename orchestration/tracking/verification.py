"""Did a trial train on what it should have? Its receipts against the manifest, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...datasets import BatchSequence, EpochOrder, Manifest
from .runs import Tracker, TrialRecord


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
    epochs = int(record.metrics.get("epoch", 0))
    if record.params["data_digest"] != manifest.digest:
        problem = f"the data set is another one now: digest {manifest.digest[:12]}, not {_short(record)}"
        yield from (EpochCheck(epoch, problem) for epoch in range(1, epochs + 1))
        return
    train, batch = manifest.split("train"), int(record.params["global_batch"])
    block = record.params["shuffle_block"]
    order = EpochOrder(train.shard_samples, int(record.params["seed"]), None if block == "all" else int(block))
    # Experiments of version 0.1 name no tail: they dropped it.
    sequence = BatchSequence(order, batch, "carry" if record.params.get("tail") == "carry" else "drop")
    logged = tracker.receipts(record.run_id)
    for epoch in range(1, epochs + 1):
        yield EpochCheck(epoch, _difference(logged.get(epoch), sequence.receipt(epoch - 1)))


def _difference(found: int | None, expected: int) -> str | None:
    if found is None:
        return "no receipt was logged"
    if found != expected:
        return f"consumed samples {found:016x}, the manifest says {expected:016x}"
    return None


def _short(record: TrialRecord) -> str:
    return record.params["data_digest"][:12]
