"""Receipts in a real MLflow, of epochs that a real loader read: `verify` names the one that is not the manifest's."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from effnet_cluster.datasets import Batch, Manifest, TrainLoader, merge_receipts, receipt
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.metric_log import MetricLog, MetricPoints
from effnet_cluster.orchestration.tracking.receipts import EpochCheck, check_receipts
from effnet_cluster.orchestration.tracking.records import TrialRecord
from effnet_cluster.orchestration.tracking.runs import Tracker

from .conftest import ensure_sweep, job_of

BATCH, SEED, EPOCHS = 2, 7, 3


@pytest.fixture(scope="module")
def plan(large_photos: Manifest) -> Plan:
    fields = {"name": "x", "variants": "b0", "seeds": [SEED], "recipe": {"global_batch": BATCH, "epochs": EPOCHS}}
    return make_plan(ExperimentSpec.parse(fields), large_photos)


def consumed(batches: Iterable[Batch]) -> int:
    return merge_receipts(*(receipt(batch.positions.numpy(), batch.sample_ids.numpy()) for batch in batches))


def train(tracker: Tracker, plan: Plan, manifest: Manifest, *, skip_in: int = 0, world_size: int = 1) -> TrialRecord:
    """Read every epoch as training does, without its second batch in epoch `skip_in`, and log the receipts."""
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    log = MetricLog(tracker, run_id)
    for epoch in range(EPOCHS):
        parts = []
        for rank in range(world_size):
            loader = TrainLoader(
                manifest, image_size=32, global_batch=BATCH, seed=SEED, rank=rank, world_size=world_size
            )
            batches = list(loader.epoch(epoch))
            if epoch + 1 == skip_in:
                del batches[1]
            parts.append(consumed(batches))
        value = merge_receipts(*parts)
        halves = {"receipt/high": float(value >> 32), "receipt/low": float(value & 0xFFFFFFFF)}
        log.log([MetricPoints(epoch, [(epoch + 1, {"epoch": float(epoch + 1), **halves})])])
    (record,) = tracker.trials()
    return record


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_the_loader_read_is_what_the_manifest_says(
    tracker: Tracker, plan: Plan, large_photos: Manifest, world_size: int
) -> None:
    record = train(tracker, plan, large_photos, world_size=world_size)
    assert list(check_receipts(tracker, record, large_photos)) == [EpochCheck(1), EpochCheck(2), EpochCheck(3)]


def test_a_skipped_batch_is_found_and_its_epoch_named(tracker: Tracker, plan: Plan, large_photos: Manifest) -> None:
    record = train(tracker, plan, large_photos, skip_in=2)
    checks = list(check_receipts(tracker, record, large_photos))
    assert [check.epoch for check in checks if check.problem] == [2]
    assert "the manifest says" in str(checks[1].problem)


def test_another_seed_fits_no_epoch(tracker: Tracker, plan: Plan, large_photos: Manifest) -> None:
    record = train(tracker, plan, large_photos)
    other = replace(record, seed=SEED + 1)
    assert all(check.problem for check in check_receipts(tracker, other, large_photos))


def test_an_epoch_without_a_receipt_is_told(tracker: Tracker, plan: Plan, large_photos: Manifest) -> None:
    record = train(tracker, plan, large_photos)
    longer = replace(record, epochs_done=4)
    assert list(check_receipts(tracker, longer, large_photos))[-1] == EpochCheck(4, "no receipt was logged")


def test_another_data_set_is_told(tracker: Tracker, plan: Plan, large_photos: Manifest, digits: Manifest) -> None:
    record = train(tracker, plan, large_photos)
    problems = [check.problem for check in check_receipts(tracker, record, digits)]
    assert len(problems) == EPOCHS
    assert all(problem is not None and "the data set is another one now" in problem for problem in problems)
