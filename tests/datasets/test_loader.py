"""The loaders end to end: exact sequences, whoever reads them, and one line for a sample that cannot be read."""

import pickle
import shutil
import tarfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_cluster.datasets import (
    Batch,
    DataError,
    EpochOrder,
    EvalLoader,
    Manifest,
    TrainLoader,
    TrainTransform,
    merge_receipts,
    receipt,
)
from effnet_cluster.datasets.reading.reader import ShardReader

SIZE = 16
reuses_fixtures = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def train_loader(manifest: Manifest, **arguments: Any) -> TrainLoader:
    return TrainLoader(manifest, **{"image_size": SIZE, "global_batch": 4, "seed": 5, **arguments})


def contents(batches: list[Batch]) -> list[tuple[bytes, ...]]:
    return [tuple(column.numpy().tobytes() for column in batch[:5]) for batch in batches]


def join(batches: list[Batch]) -> Batch:
    columns = zip(*(batch[:5] for batch in batches), strict=True)
    return Batch(*(torch.cat(column) for column in columns), [entry for batch in batches for entry in batch.corrupt])


def from_tars(manifest: Manifest, split: str, *, quick: bool = False) -> list[tuple[int, Image.Image]]:
    """(label, image) of all samples, shard after shard, read with tarfile; `quick`: decoded as for training."""
    found = []
    for path in sorted((manifest.root / split).glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}
        for name, data in files.items():
            if name.endswith(".jpg"):
                label = int(files[name.removesuffix("jpg") + "cls"])
                pixels = simplejpeg.decode_jpeg(data, fastdct=quick, fastupsample=quick)
                found.append((label, Image.fromarray(pixels)))
    return found


def test_a_batch_holds_the_samples_that_the_order_says(photo_shards: Manifest) -> None:
    samples = from_tars(photo_shards, "train", quick=True)
    order = EpochOrder(photo_shards.splits["train"].shard_samples, 5).sample_ids(2)
    size = 64  # more than half of the photos, so that none is decoded at a reduced scale
    augment = TrainTransform(size, seed=5)
    batches = list(train_loader(photo_shards, image_size=size).epoch(2))
    assert len(batches) == 4
    for number, batch in enumerate(batches):
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, size, size), torch.uint8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert [c.dtype for c in batch[1:5]] == [torch.int64, torch.int64, torch.int64, torch.bool]
        assert batch.positions.tolist() == list(range(4 * number, 4 * number + 4))
        assert batch.sample_ids.tolist() == order[batch.positions.numpy()].tolist()
        assert batch.mask.all()
        for image, label, sample in zip(batch.images, batch.labels.tolist(), batch.sample_ids.tolist(), strict=True):
            assert label == samples[sample][0]
            assert torch.equal(image, augment(samples[sample][1], 2, sample))


@reuses_fixtures
@given(world=st.sampled_from([1, 2, 3, 6]), block=st.integers(1, 7) | st.none(), data=st.data())
def test_the_union_of_ranks_is_the_uninterrupted_sequence_from_any_batch(
    photo_shards: Manifest, world: int, block: int | None, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, 2))
    settings = {"global_batch": 6, "shuffle_block": block}
    whole = contents(list(train_loader(photo_shards, **settings).epoch(1)))
    ranks = [train_loader(photo_shards, rank=r, world_size=world, **settings).epoch(1, start) for r in range(world)]
    assert contents([join(list(parts)) for parts in zip_longest(*ranks)]) == whole[start:]


@pytest.mark.parametrize("start", [0, 1])
def test_loader_workers_do_not_change_the_batches(photo_shards: Manifest, start: int) -> None:
    arguments = {"global_batch": 4, "rank": 1, "world_size": 2}
    alone = train_loader(photo_shards, **arguments)
    helped = train_loader(photo_shards, loader_workers=2, **arguments)
    expected = contents(list(alone.epoch(3, start)))
    assert len(expected) == 4 - start
    assert contents(list(helped.epoch(3, start))) == expected


def test_evaluation_with_loader_workers_is_the_same(photo_shards: Manifest) -> None:
    arguments: dict[str, Any] = {
        "split": "train",
        "image_size": SIZE,
        "resize": 20,
        "batch_size": 3,
        "rank": 1,
        "world_size": 2,
    }
    alone, helped = EvalLoader(photo_shards, **arguments), EvalLoader(photo_shards, loader_workers=2, **arguments)
    assert contents(list(helped)) == contents(list(alone))


def test_loading_does_not_touch_torchs_global_generator(photo_shards: Manifest) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(train_loader(photo_shards).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_each_sample_at_most_once_an_epoch_and_other_epochs_differ(digits: Manifest) -> None:
    loader = train_loader(digits, global_batch=128)
    epochs = [join(list(loader.epoch(epoch))) for epoch in (0, 1)]
    for epoch in epochs:
        assert len(set(epoch.sample_ids.tolist())) == len(epoch.sample_ids) == 1438 // 128 * 128
    assert epochs[0].sample_ids.tolist() != epochs[1].sample_ids.tolist()
    assert loader.sequence.batches_in(0) == loader.sequence.batches_per_epoch == 11


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_gives_each_sample_exactly_once_with_its_label(digits: Manifest, world: int) -> None:
    loaders = [
        EvalLoader(digits, image_size=8, resize=8, batch_size=25, rank=r, world_size=world) for r in range(world)
    ]
    ranks = [list(loader) for loader in loaders]
    assert {len(batches) for batches in ranks} == {loaders[0].batches} == {len(loader) for loader in loaders}
    everything = join([batch for batches in ranks for batch in batches])
    real = everything.mask
    assert everything.images.shape[1:] == (3, 8, 8)
    assert sorted(everything.sample_ids[real].tolist()) == list(range(359))
    labels = [label for label, _ in from_tars(digits, "val")]
    assert everything.labels[real].tolist() == [labels[i] for i in everything.sample_ids[real].tolist()]
    assert not everything.images[~real].any()
    assert set(everything.sample_ids[~real].tolist()) <= {-1}
    assert set(everything.labels[~real].tolist()) <= {0}


def test_digits_are_not_mirrored_unless_asked_for(digits: Manifest) -> None:
    (default, plain, mirrored) = (
        contents(list(train_loader(digits, global_batch=256, mirror=mirror).epoch(0))) for mirror in (None, False, True)
    )
    assert default == plain
    assert default != mirrored


def test_without_augmentation_every_epoch_shows_the_images_themselves(digits: Manifest) -> None:
    images = from_tars(digits, "train")
    loader = train_loader(digits, image_size=32, global_batch=64, augment=False)
    batch = next(loader.epoch(4))
    for image, sample in zip(batch.images, batch.sample_ids.tolist(), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.array(images[sample][1]))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_receipts_of_the_consumed_batches_add_up_to_the_expected_one(photo_shards: Manifest, world: int) -> None:
    parts = []
    for rank in range(world):
        loader = train_loader(photo_shards, rank=rank, world_size=world)
        parts += [receipt(batch.positions.numpy(), batch.sample_ids.numpy()) for batch in loader.epoch(1)]
    loader = train_loader(photo_shards)
    assert merge_receipts(*parts) == loader.sequence.receipt(1)
    assert merge_receipts(*parts[1:]) != loader.sequence.receipt(1)
    rest = [receipt(batch.positions.numpy(), batch.sample_ids.numpy()) for batch in loader.epoch(1, 2)]
    assert merge_receipts(*rest) == loader.sequence.receipt(1, start_batch=2)


@pytest.mark.parametrize("off", [1, -1])
def test_a_receipt_is_of_what_was_read_and_not_of_what_was_planned(
    photo_shards: Manifest, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    loader = train_loader(photo_shards)
    place = ShardReader._place
    wrong = int(loader.sequence.batch_ids(1, 2)[1])
    monkeypatch.setattr(ShardReader, "_place", lambda reader, i: place(reader, (i + off) % 16 if i == wrong else i))
    batches = list(loader.epoch(1))
    assert batches[2].sample_ids[1] == (wrong + off) % 16
    parts = [receipt(batch.positions.numpy(), batch.sample_ids.numpy()) for batch in batches]
    assert merge_receipts(*parts) != loader.sequence.receipt(1)
    assert merge_receipts(*parts[:2]) == merge_receipts(loader.sequence.receipt(1), -loader.sequence.receipt(1, 2))


@pytest.fixture
def damaged(photo_shards: Manifest, tmp_path: Path) -> tuple[Manifest, str]:
    """A copy in which the image data of training sample 7 is overwritten, and that sample's shard and key."""
    root = Path(shutil.copytree(photo_shards.root, tmp_path / "damaged"))
    manifest = Manifest.load(root)
    train = manifest.splits["train"]
    path = root / train.shards[train.shard[7]].name
    data = bytearray(path.read_bytes())
    data[train.offset[7] : train.offset[7] + train.size[7]] = bytes(int(train.size[7]))
    path.write_bytes(data)
    return manifest, f"{path}: sample {train.key(7)}: not an image"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_sample_stops_with_shard_key_and_reason_in_one_line(
    damaged: tuple[Manifest, str], workers: int
) -> None:
    manifest, message = damaged
    loader = train_loader(manifest, loader_workers=workers)
    position = loader.sequence.order.sample_ids(0).tolist().index(7)
    batches = loader.epoch(0)
    for _ in range(position // 4):
        next(batches)  # what comes before the damage is still delivered
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.fixture
def rotten(photo_shards: Manifest, tmp_path: Path) -> Manifest:
    """A copy in which training samples 3, 7 and 8 and validation sample 1 are overwritten with zeros."""
    manifest = Manifest.load(Path(shutil.copytree(photo_shards.root, tmp_path / "rotten")))
    for split, bad in (("train", (3, 7, 8)), ("val", (1,))):
        part = manifest.splits[split]
        for sample in bad:
            with (manifest.root / part.shards[part.shard[sample]].name).open("r+b") as file:
                file.seek(part.offset[sample])
                file.write(bytes(part.size[sample]))
    return manifest


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (2, 2)])
def test_a_corrupt_sample_is_replaced_by_the_next_readable_one_and_listed(
    photo_shards: Manifest, rotten: Manifest, world: int, workers: int
) -> None:
    for epoch in range(3):
        order = train_loader(rotten).sequence.order.sample_ids(epoch).tolist()
        shown = list(order)
        for position, sample in enumerate(order):
            if sample in (3, 7, 8):
                shown[position] = next(i for i in order[position:] + order if i not in (3, 7, 8))
        size = 64  # as above
        options = {"image_size": size, "loader_workers": workers, "on_corrupt": "skip"}
        ranks = [train_loader(rotten, rank=r, world_size=world, **options).epoch(epoch) for r in range(world)]
        batch = join([join(list(parts)) for parts in zip_longest(*ranks)])
        assert batch.mask.all()
        assert batch.sample_ids.tolist() == order
        images = from_tars(photo_shards, "train", quick=True)
        assert batch.labels.tolist() == [images[sample][0] for sample in shown]
        augment = TrainTransform(size, seed=5)
        for image, sample in zip(batch.images, shown, strict=True):
            assert torch.equal(image, augment(images[sample][1], epoch, sample))
        assert [(c.position, c.sample_id, c.replacement) for c in batch.corrupt] == [
            (p, planned, real) for p, (planned, real) in enumerate(zip(order, shown, strict=True)) if planned != real
        ]
        for entry in batch.corrupt:
            assert f"sample {rotten.splits['train'].key(entry.sample_id)}: not an image" in entry.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_sample_is_masked_out_in_evaluation_and_listed(rotten: Manifest, workers: int) -> None:
    loader = EvalLoader(
        rotten, image_size=8, resize=8, batch_size=3, world_size=1, loader_workers=workers, on_corrupt="skip"
    )
    batch = join(list(loader))
    assert batch.mask.tolist() == [True, False, True, True, False, False]
    assert batch.sample_ids.tolist() == [0, 1, 2, 3, -1, -1]
    assert not batch.images[1].any()
    ((position, sample_id, reason, replacement),) = batch.corrupt
    assert (position, sample_id, replacement) == (1, 1, -1)
    assert "not an image" in reason
    with pytest.raises(DataError, match="not an image"):
        list(EvalLoader(rotten, image_size=8, resize=8, batch_size=3))


def test_a_dataset_without_a_readable_sample_stops_even_with_skip(photo_shards: Manifest, tmp_path: Path) -> None:
    manifest = Manifest.load(Path(shutil.copytree(photo_shards.root, tmp_path / "copy")))
    for shard in manifest.splits["train"].shards:
        (manifest.root / shard.name).write_bytes(bytes(shard.bytes))
    with pytest.raises(DataError, match=r"not an image .*no sample after it in the epoch's order can be decoded"):
        next(train_loader(manifest, on_corrupt="skip").epoch(0))
    (manifest.root / manifest.splits["train"].shards[0].name).unlink()
    with pytest.raises(DataError, match="No such file"):  # that would be another set of samples on every machine
        list(train_loader(manifest, on_corrupt="skip").epoch(0))


def test_a_truncated_or_missing_shard_is_named(photo_shards: Manifest, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photo_shards.root, tmp_path / "copy"))
    manifest = Manifest.load(root)
    path = root / manifest.splits["train"].shards[0].name
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"train/000000\.tar: sample .*: the shard has .* bytes, the manifest says"):
        list(train_loader(manifest).epoch(0))
    path.unlink()
    with pytest.raises(DataError, match=r"train/000000\.tar: sample .*: cannot be read: No such file"):
        list(train_loader(manifest).epoch(0))


def test_a_shard_that_shrinks_while_it_is_read_is_a_short_read(photo_shards: Manifest, tmp_path: Path) -> None:
    manifest = Manifest.load(Path(shutil.copytree(photo_shards.root, tmp_path / "copy")))
    reader = ShardReader(manifest, "train")
    reader.read(0)
    with (manifest.root / manifest.splits["train"].shards[0].name).open("r+b") as file:
        file.truncate(700)
    with pytest.raises(DataError, match=r"sample .*: 188 of [\d,]+ bytes|0 of [\d,]+ bytes; the shard is truncated"):
        reader.read(0)


def test_a_reader_keeps_few_files_open_and_travels(photo_shards: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.reading.reader._MAX_OPEN", 2)
    reader = ShardReader(photo_shards, "train")
    data = [reader.read(i) for i in range(16)]
    assert [sample_id for sample_id, _ in data] == list(range(16))
    assert len(reader._open) == 2
    copy = pickle.loads(pickle.dumps(reader))
    assert not copy._open
    assert [copy.read(i) for i in reversed(range(16))] == data[::-1]
    reader.close()
    assert reader.read(3) == data[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_batch": 5, "world_size": 2}, "global batch 5 cannot be shared by 2 workers"),
        ({"global_batch": 17}, "larger than the 16 training samples"),
        ({"loader_workers": -1}, "loader_workers must be 0 or more"),
        ({"crop_scale": (2.0, 3.0)}, "crop_scale"),
        ({"shuffle_block": 0}, "shuffle_block"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(
    photo_shards: Manifest, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train_loader(photo_shards, **arguments)


def test_a_batch_or_split_that_does_not_exist_is_refused_at_once(photo_shards: Manifest) -> None:
    loader = train_loader(photo_shards)
    assert list(loader.epoch(0, 4)) == []
    for start in (-1, 5):
        with pytest.raises(DataError, match=f"batch {start} does not exist"):
            loader.epoch(0, start)
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        EvalLoader(photo_shards, split="test", image_size=8, resize=8, batch_size=4)
