"""Properties of the order of samples, against references written here without numpy's vectors."""

import time
import tracemalloc
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.datasets import BatchLayout, BatchSequence, DataError, EpochOrder, merge_receipts, receipt
from effnet_cluster.datasets.philox import Domain, permutation, uniforms, words

WORD = 2**64
shard_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=12).map(tuple)
seeds = st.integers(0, WORD - 1)


def philox4x64(key: list[int], counter: list[int]) -> list[int]:
    """Philox4x64-10 as in Salmon et al. 2011, one block, in Python integers."""
    key, counter = list(key), list(counter)
    for _ in range(10):
        first, second = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second % WORD,
            (first >> 64) ^ counter[3] ^ key[1],
            first % WORD,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) % WORD, (key[1] + 0xBB67AE8584CAA73B) % WORD]
    return counter


@given(seed=seeds, epoch=seeds, index=seeds)
def test_words_are_philox_of_seed_epoch_and_index(seed: int, epoch: int, index: int) -> None:
    counter = [[block, index, int(Domain.SAMPLES), 0] for block in (1, 2)]  # numpy counts up before each block
    expected = [word for block in counter for word in philox4x64([seed, epoch], block)]
    assert words(8, Domain.SAMPLES, seed, epoch, index).tolist() == expected
    assert uniforms(8, Domain.SAMPLES, seed, epoch, index).tolist() == [(w >> 11) / 2**53 for w in expected]
    assert permutation(8, Domain.SAMPLES, seed, epoch, index).tolist() == sorted(range(8), key=expected.__getitem__)


def reference_order(sizes: tuple[int, ...], seed: int, block: int, epoch: int) -> list[int]:
    """The documented construction, sample by sample."""
    firsts = [sum(sizes[:n]) for n in range(len(sizes))]
    shards = permutation(len(sizes), Domain.SHARDS, seed, epoch).tolist()
    order: list[int] = []
    for number, start in enumerate(range(0, len(shards), block)):
        ids = [firsts[s] + i for s in shards[start : start + block] for i in range(sizes[s])]
        order += [ids[i] for i in permutation(len(ids), Domain.SAMPLES, seed, epoch, number)]
    return order


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_no_samples_have_an_order_of_none(sizes: tuple[int, ...]) -> None:
    order = EpochOrder(sizes, 1).sample_ids(0)
    assert (order.shape, order.dtype) == ((0,), np.int64)


def test_the_remembered_order_cannot_be_changed() -> None:
    order = EpochOrder((3, 4), 1).sample_ids(0)
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 9


@given(sizes=shard_sizes, seed=seeds, epoch=st.integers(0, 1000), block=st.integers(1, 14) | st.none())
def test_an_epoch_is_a_permutation_made_as_documented(
    sizes: tuple[int, ...], seed: int, epoch: int, block: int | None
) -> None:
    order = EpochOrder(sizes, seed, block).sample_ids(epoch).tolist()
    assert sorted(order) == list(range(sum(sizes)))
    assert order == reference_order(sizes, seed, block or len(sizes), epoch)


@given(sizes=shard_sizes, seed=seeds, block=st.integers(1, 5))
def test_a_block_holds_the_samples_of_its_shards_only(sizes: tuple[int, ...], seed: int, block: int) -> None:
    shard_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    order = EpochOrder(sizes, seed, block).sample_ids(0).tolist()
    seen = [shard_of[i] for i in order]
    runs_of = {shard: seen.index(shard) for shard in set(seen)}
    for shard in runs_of:
        last = len(seen) - 1 - seen[::-1].index(shard)
        between = set(seen[runs_of[shard] : last + 1])
        assert len(between) <= block


def test_epochs_differ_and_seeds_differ() -> None:
    sizes = (50,) * 6
    orders = [EpochOrder(sizes, seed).sample_ids(epoch).tolist() for seed in (0, 1, 2**63) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 9


def test_the_default_shuffle_is_uniform_over_positions() -> None:
    """Each quarter of the samples falls evenly into each quarter of the epoch: chi-squared, 9 degrees, p = 1e-4."""
    counts = np.zeros((4, 4))
    for epoch in range(50):
        order = EpochOrder((100,) * 4, 7).sample_ids(epoch)
        for quarter in range(4):
            counts[quarter] += np.bincount(order[quarter * 100 : quarter * 100 + 100] // 100, minlength=4)
    chi_squared = ((counts - 1250) ** 2 / 1250).sum()
    assert chi_squared < 33.7
    assert chi_squared > 0.3  # a shuffle that balanced the shards by construction would not be one


def test_imagenet_sized_epoch_takes_under_a_second_and_is_entered_anywhere_at_once() -> None:
    for block in (None, 16):
        order = EpochOrder((1000,) * 1281, 0, block)
        taken, again = [], []
        for epoch in range(3):
            start = time.process_time()  # not what others on this machine take
            order.sample_ids(epoch)
            taken.append(time.process_time() - start)
            start = time.process_time()
            ids = order.sample_ids(epoch)
            next(iter(BatchLayout(len(ids), 256).positions(2500)))
            again.append(time.process_time() - start)
        assert min(taken) < 1.0
        assert min(again) < 0.05
        tracemalloc.start()
        order.sample_ids(7)
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()


def test_equal_words_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "effnet_cluster.datasets.philox.words", lambda count, *_: np.arange(count, dtype=np.uint64) % np.uint64(3)
    )
    assert permutation(300, Domain.SAMPLES, 0).tolist() == sorted(range(300), key=lambda i: i % 3)


@given(sizes=shard_sizes, seed=seeds, block=st.integers(1, 5) | st.none(), data=st.data())
def test_any_history_of_stops_and_sizes_reads_the_uninterrupted_sequence(
    sizes: tuple[int, ...], seed: int, block: int | None, data: st.DataObject
) -> None:
    """Two epochs, stopped after any batches and resumed with other numbers of ranks and loader workers each time."""
    batch = 12
    order = EpochOrder((20, *sizes), seed, block)
    whole = BatchLayout(len(order), batch).batches
    for epoch in (0, 1):
        ids = order.sample_ids(epoch)
        read: list[int] = []
        at = 0
        while at < whole:
            world, workers = data.draw(st.sampled_from([1, 2, 3, 4, 6, 12])), data.draw(st.integers(1, 4))
            stop = data.draw(st.integers(at + 1, whole))
            layouts = [BatchLayout(len(order), batch, rank, world) for rank in range(world)]
            for number in range(at, stop):
                read += [int(ids[p]) for layout in layouts for p in layout.positions(number)]
            for layout in layouts:
                mine = layout.worker_positions(at, 0, workers).tolist()
                assert mine == [p for b in layout.worker_batches(at, 0, workers) for p in layout.positions(b)]
            at = stop
        assert read == ids[: whole * batch].tolist()
        assert len(set(read)) == len(read)


def as_loaded(layout: BatchLayout, start: int, workers: int) -> list[int]:
    """The batches of a rank in the order in which a loader asks its workers: in turn, skipping those that are done."""
    queues = [list(layout.worker_batches(start, worker, workers)) for worker in range(workers)]
    batches = []
    while any(queues):
        batches += [queue.pop(0) for queue in queues if queue]
    return batches


@given(data=st.data(), world=st.integers(1, 6), local=st.integers(1, 5), workers=st.integers(1, 5))
def test_any_ranks_and_workers_read_the_uninterrupted_sequence_from_any_batch(
    data: st.DataObject, world: int, local: int, workers: int
) -> None:
    size = world * local
    samples = data.draw(st.integers(size, 6 * size + 3))
    layouts = [BatchLayout(samples, size, rank, world) for rank in range(world)]
    start = data.draw(st.integers(0, layouts[0].batches))
    loaded = [as_loaded(layout, start, workers) for layout in layouts]
    assert all(batches == list(range(start, samples // size)) for batches in loaded)
    read = [
        p
        for batches in zip(*loaded, strict=True)
        for layout, b in zip(layouts, batches, strict=True)
        for p in layout.positions(b)
    ]
    assert read == list(range(start * size, samples // size * size))


@given(
    size=st.sampled_from([12, 24, 60]),
    one=st.sampled_from([1, 2, 3, 4, 6, 12]),
    other=st.sampled_from([1, 2, 3, 4, 12]),
)
def test_changing_the_number_of_ranks_leaves_every_global_batch_as_it_was(size: int, one: int, other: int) -> None:
    def global_batch(batch: int, world: int) -> list[int]:
        return list(
            chain.from_iterable(BatchLayout(10 * size + 5, size, r, world).positions(batch) for r in range(world))
        )

    for batch in range(10):
        assert global_batch(batch, one) == global_batch(batch, other)


@given(samples=st.integers(1, 60), size=st.integers(1, 9), world=st.integers(1, 7))
def test_evaluation_visits_each_sample_exactly_once_in_equally_many_batches(
    samples: int, size: int, world: int
) -> None:
    layouts = [BatchLayout.evaluation(samples, size, rank, world) for rank in range(world)]
    assert {layout.local_batch for layout in layouts} == {size}
    assert len({layout.batches for layout in layouts}) == 1
    read = [p for layout in layouts for b in range(layout.batches) for p in layout.positions(b)]
    assert sorted(p for p in read if p < samples) == list(range(samples))
    assert len(read) - samples < size * world  # no batch is all padding on all ranks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 10, 0, 3), "global batch 10 cannot be shared by 3 workers equally; use a multiple of 3"),
        ((9, 10), "larger than the 9 training samples; use at most 9"),
        ((0, 1), "no samples"),
        ((10, 0), "at least 1"),
        ((10, 2, 2, 2), "rank 2 of 2 does not exist"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        BatchLayout(*arguments)
    assert "\n" not in str(caught.value)


def test_seeds_and_blocks_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="seed must be between"):
        EpochOrder((3,), -1).sample_ids(0)
    with pytest.raises(DataError, match="epoch must be between"):
        EpochOrder((3,), 0).sample_ids(-1)
    with pytest.raises(DataError, match="shuffle_block"):
        EpochOrder((3,), 0, 0)


def reference_receipt(pairs: list[tuple[int, int]]) -> int:
    def mix(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % WORD
        value = (value ^ value >> 27) * 0x94D049BB133111EB % WORD
        return value ^ value >> 31

    return sum(mix(mix((p + 0x9E3779B97F4A7C15) % WORD) ^ i) for p, i in pairs) % WORD


def receipt_of(pairs: list[tuple[int, int]]) -> int:
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return receipt(table[:, 0], table[:, 1])


@given(ids=st.lists(st.integers(0, 2**40), min_size=2, max_size=30, unique=True), data=st.data())
def test_a_receipt_notices_swap_omission_duplication_and_replacement(ids: list[int], data: st.DataObject) -> None:
    pairs = list(enumerate(ids))
    whole = receipt_of(pairs)
    assert whole == reference_receipt(pairs)
    i, j = data.draw(st.lists(st.sampled_from(range(len(ids))), min_size=2, max_size=2, unique=True))
    swapped = list(ids)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    assert receipt_of(list(enumerate(swapped))) != whole
    assert receipt_of(pairs[:i] + pairs[i + 1 :]) != whole
    assert receipt_of([*pairs, pairs[i]]) != whole
    repeated = list(ids)
    repeated[i] = ids[j]
    assert receipt_of(list(enumerate(repeated))) != whole


@given(world=st.sampled_from([1, 2, 3, 6]), cut=st.integers(0, 5))
def test_receipts_of_ranks_and_of_stretches_add_up_to_the_expected_one(world: int, cut: int) -> None:
    order = EpochOrder((7, 0, 13, 11), 5)
    ids = order.sample_ids(2)
    parts = []
    for rank in range(world):
        layout = BatchLayout(len(order), 6, rank, world)
        for stretch in (range(cut), range(cut, layout.batches)):
            positions = np.array([p for b in stretch for p in layout.positions(b)], dtype=np.int64)
            parts.append(receipt(positions, ids[positions]))
    sequence = BatchSequence(order, 6)
    assert merge_receipts(*parts) == sequence.receipt(2) == reference_receipt(list(enumerate(ids.tolist()))[:30])
    assert sequence.receipt(2, 1) == reference_receipt(list(enumerate(ids.tolist()))[6:30]) != sequence.receipt(2)
