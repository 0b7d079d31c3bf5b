"""The global batches of a run: with the tail of each epoch's order dropped, or carried over into the next epoch."""

from itertools import chain, zip_longest

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effnet_cluster.datasets import (
    BatchSequence,
    DataError,
    EpochOrder,
    Manifest,
    TrainLoader,
    receipt,
)

EPOCHS = 4
SIZE = 64
reuses_fixtures = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cut(sequence: BatchSequence) -> list[list[list[int]]]:
    """Sample ids by epoch and batch."""
    return [
        [sequence.batch_ids(epoch, batch).tolist() for batch in range(sequence.batches_in(epoch))]
        for epoch in range(EPOCHS)
    ]


@given(
    shards=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batch=st.integers(1, 20),
    seed=st.integers(0, 2**64 - 1),
    block=st.integers(1, 5) | st.none(),
)
def test_carried_tails_make_one_sequence_of_all_orders(
    shards: list[int], batch: int, seed: int, block: int | None
) -> None:
    order = EpochOrder(tuple(shards), seed, block)
    batch = min(batch, len(order))
    sequence = BatchSequence(order, batch, "carry")
    orders = list(chain.from_iterable(order.sample_ids(epoch).tolist() for epoch in range(EPOCHS)))
    whole = [orders[first : first + batch] for first in range(0, len(orders) - batch + 1, batch)]
    epochs = cut(sequence)
    assert list(chain.from_iterable(epochs)) == whole
    assert [sequence.first_batch(epoch) for epoch in range(EPOCHS)] == [
        sum(map(len, epochs[:epoch])) for epoch in range(EPOCHS)
    ]
    # An epoch holds the batches that end in its order: never none, never two more than another one.
    lengths = {len(batches) for batches in epochs}
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    assert sequence.batches_per_epoch == len(order) / batch


@given(shards=st.lists(st.integers(1, 9), min_size=1, max_size=5), batch=st.integers(1, 20))
def test_dropped_tails_leave_every_epoch_its_own_whole_batches(shards: list[int], batch: int) -> None:
    order = EpochOrder(tuple(shards), 3)
    batch = min(batch, len(order))
    for epoch, batches in enumerate(cut(BatchSequence(order, batch))):
        ids = order.sample_ids(epoch).tolist()
        assert batches == [ids[first : first + batch] for first in range(0, len(ids) - batch + 1, batch)]


@given(epoch=st.integers(0, 3), start=st.integers(0, 3), tail=st.sampled_from(["drop", "carry"]))
def test_a_receipt_is_that_of_the_positions_from_a_batch_on(epoch: int, start: int, tail: str) -> None:
    sequence = BatchSequence(EpochOrder((7, 13, 11), 5), 7, tail)  # type: ignore[arg-type]
    ids = list(chain.from_iterable(cut(sequence)[epoch]))
    table = np.array(list(enumerate(ids))[7 * start :], dtype=np.int64)
    assert sequence.receipt(epoch, start) == receipt(table[:, 0], table[:, 1])


def test_going_through_the_epochs_sorts_every_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_epochs = []
    compute = EpochOrder._sample_ids

    def counting(order: EpochOrder, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        sorted_epochs.append(epoch)
        return compute(order, epoch)

    monkeypatch.setattr(EpochOrder, "_sample_ids", counting)
    sequence = BatchSequence(EpochOrder((97, 101), 8), 16, "carry")
    cut(sequence)
    assert sorted_epochs == [0, 1, 2, 3]


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="larger than the 9 training samples"):
        BatchSequence(EpochOrder((9,), 0), 10, "carry")
    with pytest.raises(DataError, match="tail must be drop or carry, got 'keep'"):
        BatchSequence(EpochOrder((9,), 0), 3, "keep")  # type: ignore[arg-type]


def carrying(manifest: Manifest, rank: int = 0, world_size: int = 1, workers: int = 0) -> TrainLoader:
    """16 training photos in batches of 6: 2, 3 and 3 batches in the first three epochs."""
    return TrainLoader(
        manifest,
        image_size=SIZE,
        global_batch=6,
        seed=5,
        tail="carry",
        rank=rank,
        world_size=world_size,
        loader_workers=workers,
    )


def test_a_carried_sample_is_shown_as_in_its_own_epoch(photo_shards: Manifest) -> None:
    loader = carrying(photo_shards)
    whole = TrainLoader(photo_shards, image_size=SIZE, global_batch=16, seed=5)
    shown = {
        (epoch, sample): image
        for epoch in range(3)
        for batch in whole.epoch(epoch)
        for sample, image in zip(batch.sample_ids.tolist(), batch.images, strict=True)
    }
    lengths = []
    for epoch, carried in enumerate((0, 4, 2)):
        batches = list(loader.epoch(epoch))
        lengths.append(len(batches))
        assert [p for batch in batches for p in batch.positions.tolist()] == list(range(6 * len(batches)))
        for batch in batches:
            samples = zip(batch.positions.tolist(), batch.sample_ids.tolist(), batch.images, strict=True)
            for position, sample, image in samples:
                assert torch.equal(image, shown[epoch - (position < carried), sample])
    assert lengths == [2, 3, 3]


@reuses_fixtures
@given(world=st.sampled_from([1, 2, 3, 6]), workers=st.sampled_from([0, 0, 0, 2]), data=st.data())
def test_any_ranks_and_workers_read_the_same_carried_batches_from_any_batch(
    photo_shards: Manifest, world: int, workers: int, data: st.DataObject
) -> None:
    epoch = data.draw(st.integers(0, 2))
    whole = list(carrying(photo_shards).epoch(epoch))
    start = data.draw(st.integers(0, len(whole)))
    ranks = [list(carrying(photo_shards, rank, world, workers).epoch(epoch, start)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(whole) - start}
    for expected, parts in zip(whole[start:], zip_longest(*ranks), strict=True):
        for column in range(5):
            assert torch.equal(torch.cat([part[column] for part in parts]), expected[column])
