"""Shards: what plain webdataset reads from them, the same bytes every time, and tars that others wrote."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effnet_cluster.datasets import DataError, Manifest, index_shards, prepare
from effnet_cluster.datasets.decoding.images import EncodedImage
from effnet_cluster.datasets.preparing.shards import shard_bounds, write_shard

from .tars import write_tar


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (5, 7), value).save(buffer, "PNG")
    return buffer.getvalue()


def samples(count: int) -> list[tuple[str, EncodedImage, int]]:
    return [(f"k{n:03d}", EncodedImage(png(n), "png", 5, 7), n % 3) for n in range(count)]


def read_plainly(manifest: Manifest, split: str) -> dict[str, tuple[int, bytes]]:
    urls = [str(manifest.root / shard.name) for shard in manifest.splits[split].shards]
    found: dict[str, tuple[int, bytes]] = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        (extension,) = {"jpg", "png", "webp"} & sample.keys()
        assert sample["__key__"] not in found
        found[sample["__key__"]] = int(sample["cls"]), sample[extension]
    return found


def read_by_offset(manifest: Manifest, split: str) -> dict[str, tuple[int, bytes]]:
    part = manifest.splits[split]
    found = {}
    for row in range(len(part)):
        data = (manifest.root / part.shards[part.shard[row]].name).read_bytes()
        found[part.key(row)] = int(part.label[row]), data[part.offset[row] :][: part.size[row]]
    return found


@pytest.mark.parametrize("split", ["train", "val"])
def test_plain_webdataset_reads_what_the_index_points_at(photo_shards: Manifest, split: str) -> None:
    plain = read_plainly(photo_shards, split)
    assert plain == read_by_offset(photo_shards, split)
    assert len(plain) == {"train": 16, "val": 4}[split]


def test_stored_images_are_the_source_files_byte_for_byte(photo_shards: Manifest, photos: Path) -> None:
    stored = [read_plainly(photo_shards, split) for split in ("train", "val")]
    found = sorted((photo_shards.classes[label], data) for of_split in stored for label, data in of_split.values())
    assert found == sorted((path.parent.name, path.read_bytes()) for path in photos.glob("*/*.jpg"))


def test_a_shard_has_the_bytes_that_webdatasets_own_writer_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_shard(tmp_path / "ours.tar", samples(40))
    with webdataset.TarWriter(str(tmp_path / "theirs.tar"), encoder=False, mtime=0, user="", group="") as writer:
        for key, image, label in samples(40):
            writer.write({"__key__": key, image.extension: image.data, "cls": str(label).encode()})
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


@given(sizes=st.lists(st.integers(0, 100), max_size=60), most=st.integers(1, 12), most_bytes=st.integers(1, 400))
def test_a_shard_ends_at_its_limit_of_samples_or_bytes(sizes: list[int], most: int, most_bytes: int) -> None:
    bounds = list(shard_bounds(sizes, most, most_bytes))
    assert [n for begin, end in bounds for n in range(begin, end)] == list(range(len(sizes)))
    for begin, end in bounds:
        assert 1 <= end - begin <= most
        assert sum(sizes[begin : end - 1]) < most_bytes  # it was not full before its last
    for begin, end in bounds[:-1]:
        assert end - begin == most or sum(sizes[begin:end]) >= most_bytes


def test_the_limits_hold_for_what_is_prepared(photos: Path, tmp_path: Path) -> None:
    by_count = prepare(photos, tmp_path / "count", samples_per_shard=7)
    assert by_count.splits["train"].shard_samples == (7, 7, 2)
    by_bytes = prepare(photos, tmp_path / "bytes", bytes_per_shard=10_000).splits["train"]
    for number, shard in enumerate(by_bytes.shards):
        stored = by_bytes.size[by_bytes.shard == number]
        assert stored[:-1].sum() + len(stored) - 1 < 10_000, shard
    assert len(by_bytes.shards) > 1


def test_shards_of_others_are_indexed(tmp_path: Path) -> None:
    members = {
        "sub/a.cls": b"1\n",
        "sub/a.json": b"{}",
        "sub/a.jpeg": png(1),
        "e.c.d.png": png(9),  # webdataset reads key e, extension c.d.png: more of the sample e
        "e.PNG": png(2),
        "e.cls": b"0",
        "evil.pyd": b"cos\nsystem\n(S'false'\ntR.",
        "README": b"hello",
    }
    write_tar(tmp_path / "train" / "any-name.tar", members)
    manifest = index_shards(tmp_path)
    assert manifest.classes == ("0", "1")
    assert manifest.image_size == 5
    assert read_by_offset(manifest, "train") == {"sub/a": (1, png(1)), "e": (0, png(2))}
    manifest.save()
    assert Manifest.load(tmp_path).digest == manifest.digest


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x"}, "sample a has 1 images and 0 labels"),
        ({"a.cls": b"0"}, "sample a has 0 images and 1 labels"),
        ({"a.png": b"x", "a.jpg": b"x", "a.cls": b"0"}, "sample a has 2 images and 1 labels"),
        ({"a.png": b"x", "a.cls": b"cat"}, "sample a: its .cls is not a label: 'cat' is not a class number"),
        ({"a.png": b"x", "a.cls": b"-1"}, "not a class number"),
        ({"a.png": b"x", "a.cls": b"9" * 1000}, "not a class number"),
        ({"a.txt": b"x"}, "no samples"),
        ({"a.png": b"x", "a.cls": b"0"}, "sample a: not an image"),
    ],
)
def test_a_shard_of_another_shape_is_refused_by_name(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "train" / "s.tar", members)
    with pytest.raises(DataError, match=rf"train/s\.tar: {message}|{message}") as caught:
        index_shards(tmp_path)
    assert "train/s.tar" in str(caught.value)


def test_an_image_above_the_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.preparing.members.MAX_IMAGE_BYTES", 10)
    write_tar(tmp_path / "train" / "s.tar", {"a.png": b"x" * 11, "a.cls": b"0"})
    with pytest.raises(DataError, match="sample a: an image of 11 bytes; 1 to 10 are allowed"):
        index_shards(tmp_path)


def test_a_label_without_class_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train" / "s.tar", {"a.png": png(0), "a.cls": b"2"})
    with pytest.raises(DataError, match="sample a of train has label 2, but there are 2 classes"):
        index_shards(tmp_path, classes=("x", "y"))


@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_a_truncated_shard_is_refused(tmp_path: Path, keep: float) -> None:
    path = write_tar(
        tmp_path / "train" / "s.tar", {"a.png": png(0) * 20, "a.cls": b"0", "b.png": png(1) * 20, "b.cls": b"1"}
    )
    used = 4 * 512 + 2 * 512 + 2 * -(-len(png(0) * 20) // 512) * 512
    path.write_bytes(path.read_bytes()[: int(used * keep)])
    with pytest.raises(DataError, match=r"train/s\.tar"):
        index_shards(tmp_path)


def test_keys_that_are_no_utf8_and_labels_that_come_first_are_indexed(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "train" / "s.tar", {"b.cls": b"1", "a\udcff.png": png(3), "a\udcff.cls": b"0", "b.png": png(4)}
    )
    train = index_shards(tmp_path).splits["train"]
    assert train.keys.tolist() == [b"a\xff", b"b"]  # in the order of their images
    assert train.label.tolist() == [0, 1]


def test_no_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no shards; expected .*train/\*\.tar"):
        index_shards(tmp_path)


def test_shards_mix_the_classes(make_folder: Callable[[dict[str, int]], Path], tmp_path: Path) -> None:
    train = prepare(make_folder({"a": 50, "b": 50, "c": 50}), tmp_path / "out", samples_per_shard=20).splits["train"]
    assert len(train.shards) == 6
    for shard in range(6):
        assert set(train.label[train.shard == shard].tolist()) == {0, 1, 2}
