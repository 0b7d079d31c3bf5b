"""Images in several splits are found by bytes and by pixels, told, and dropped only when asked."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effnet_cluster.datasets import DataError, Duplicates, Manifest, index_existing, prepare, processes
from effnet_cluster.datasets.preparing.duplicates import ImageHashes, find_duplicates

from .tars import png, write_tar


@pytest.fixture
def leaky(photos: Path, tmp_path: Path) -> Path:
    """train and val of the photos, with two copies of a training image, and one of the same pixels, in val."""
    root = tmp_path / "leaky"
    for split, numbers in (("train", range(6)), ("val", range(6, 10))):
        for name in ("china", "flower"):
            (root / split / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(photos / name / f"{number:02d}.jpg", root / split / name)
    shutil.copy(photos / "china" / "01.jpg", root / "val" / "china" / "copy.jpg")
    shutil.copy(photos / "china" / "01.jpg", root / "val" / "flower" / "mislabelled.jpg")
    with Image.open(photos / "flower" / "02.jpg") as image:
        image.save(root / "val" / "flower" / "pixels.png")
    shutil.copy(photos / "china" / "03.jpg", root / "train" / "china" / "twice_in_train.jpg")
    return root


def names(group: tuple[str, ...]) -> list[str]:
    """Without the number in front of a key's stem."""
    return sorted(f"{split}/{key.split('-', 1)[1]}" for split, key in (sample.split("/") for sample in group))


def test_they_are_found_and_named_and_stay(leaky: Path, tmp_path: Path) -> None:
    found: list[list[Duplicates]] = []
    manifest = prepare(leaky, tmp_path / "out", report=found.append)
    ((by_bytes,),) = found
    assert (by_bytes.same, [names(group) for group in by_bytes.across_splits]) == (
        "bytes",
        [["train/01", "val/copy", "val/mislabelled"]],
    )
    assert [names(group) for group in by_bytes.across_classes] == [["train/01", "val/copy", "val/mislabelled"]]
    assert [names(group) for group in by_bytes.within_class] == [["train/03", "train/twice_in_train"]]
    assert {name: len(split) for name, split in manifest.splits.items()} == {"train": 13, "val": 11}


def test_the_same_pixels_in_another_file_are_found_when_asked(leaky: Path, tmp_path: Path) -> None:
    found: list[list[Duplicates]] = []
    prepare(leaky, tmp_path / "out", report=found.append, pixel_duplicates=True, samples_per_shard=3)
    ((by_bytes, by_pixels),) = found
    assert len(by_bytes.across_splits) == 1
    assert by_pixels.same == "pixels"
    assert sorted(names(group) for group in by_pixels.across_splits) == [
        ["train/01", "val/copy", "val/mislabelled"],
        ["train/02", "val/pixels"],
    ]


@pytest.mark.parametrize(("pixels", "left"), [(False, 12), (True, 11)])
def test_dropping_takes_them_out_of_train_alone(leaky: Path, tmp_path: Path, pixels: bool, left: int) -> None:
    found: list[list[Duplicates]] = []
    manifest = prepare(
        leaky,
        tmp_path / "out",
        drop_duplicates=True,
        pixel_duplicates=pixels,
        report=found.append,
        mapper=processes(2),
        samples_per_shard=9,
    )
    assert [duplicates.across_splits for duplicates in found[0]] == [()] * (1 + pixels)
    assert {name: len(split) for name, split in manifest.splits.items()} == {"train": left, "val": 11}
    assert ("train/01" in keys(manifest), "train/02" in keys(manifest)) == (True, True)  # flower/01 and china/02
    assert sum(key == "train/01" for key in keys(manifest)) == 1


def keys(manifest: Manifest) -> list[str]:
    return [
        f"{name}/{split.key(n).split('-', 1)[1]}" for name, split in manifest.splits.items() for n in range(len(split))
    ]


def test_a_class_without_anything_left_is_an_error(tmp_path: Path) -> None:
    for split, names_ in (("train", "ab"), ("val", "a")):
        for name in names_:
            (tmp_path / "raw" / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), (ord(name), 0, 0)).save(tmp_path / "raw" / split / name / "x.png")
    with pytest.raises(DataError, match="without duplicates class 'a' has no training image left"):
        prepare(tmp_path / "raw", tmp_path / "out", drop_duplicates=True)


def test_splits_of_distinct_images_share_none(tmp_path: Path) -> None:
    for number in range(40):  # digests that end in zero bytes or differ late must not be taken for the same
        folder = tmp_path / "raw" / ("train" if number % 2 else "val") / "a"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((2, 2), number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    found: list[list[Duplicates]] = []
    prepare(tmp_path / "raw", tmp_path / "out", report=found.append, pixel_duplicates=True, one_class=True)
    assert found == [[Duplicates("bytes", ()), Duplicates("pixels", ())]]


# What equal images have: their splits and classes → where they are found.
KINDS: dict[str, tuple[list[tuple[str, int]], set[str]]] = {
    "two splits": ([("train", 0), ("val", 0)], {"splits"}),
    "three splits": ([("train", 0), ("val", 0), ("test", 0)], {"splits"}),
    "two splits, and twice in one": ([("train", 0), ("train", 0), ("val", 0)], {"splits"}),
    "two classes of one split": ([("train", 0), ("train", 1)], {"classes"}),
    "two classes of val": ([("val", 0), ("val", 1)], {"classes"}),
    "two classes, and twice in one": ([("train", 0), ("train", 0), ("train", 1)], {"classes"}),
    "two classes of two splits": ([("train", 0), ("val", 1)], {"splits", "classes"}),
    "twice in a class": ([("train", 1), ("train", 1)], {"within"}),
    "thrice in a class of test": ([("test", 1), ("test", 1), ("test", 1)], {"within"}),
    "once": ([("train", 0)], set()),
}


@pytest.mark.parametrize("case", KINDS)
def test_the_kinds_of_duplicates_are_told_apart(case: str) -> None:
    copies, kinds = KINDS[case]
    keys: dict[str, list[str]] = {split: ["other"] for split in ("train", "val", "test")}
    labels: dict[str, list[int]] = {split: [0] for split in keys}
    images = {split: [split.encode()] for split in keys}
    group = []
    for number, (split, label) in enumerate(copies):
        keys[split].append(f"copy{number}")
        labels[split].append(label)
        images[split].append(b"same")
        group.append(f"{split}/copy{number}")
    (found,) = find_duplicates(keys, labels, {split: ImageHashes.of_bytes(of) for split, of in images.items()})
    for kind, groups in (
        ("splits", found.across_splits),
        ("classes", found.across_classes),
        ("within", found.within_class),
    ):
        assert [sorted(of_one) for of_one in groups] == ([sorted(group)] if kind in kinds else [])


@given(
    samples=st.lists(st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 2), st.integers(0, 6)), max_size=40)
)
def test_they_are_those_that_a_comparison_of_all_with_all_finds(samples: list[tuple[str, int, int]]) -> None:
    of = {split: [s for s in samples if s[0] == split] for split in ("train", "val")}
    keys = {split: [str(n) for n in range(len(found))] for split, found in of.items()}
    hashes = {split: ImageHashes.of_bytes(bytes([image]) for _, _, image in found) for split, found in of.items()}
    (found,) = find_duplicates(keys, {split: [label for _, label, _ in rows] for split, rows in of.items()}, hashes)
    named = [(f"{split}/{n}", *row) for split, rows in of.items() for n, row in enumerate(rows)]
    expected: dict[str, set[frozenset[str]]] = {"splits": set(), "classes": set(), "within": set()}
    for image in range(7):
        same = [row for row in named if row[3] == image]
        splits, classes = {row[1] for row in same}, {row[2] for row in same}
        group = frozenset(row[0] for row in same)
        if len(splits) > 1:
            expected["splits"].add(group)
        if len(classes) > 1:
            expected["classes"].add(group)
        if len(same) > 1 and len(splits) == len(classes) == 1:
            expected["within"].add(group)
    assert {frozenset(group) for group in found.across_splits} == expected["splits"]
    assert {frozenset(group) for group in found.across_classes} == expected["classes"]
    assert {frozenset(group) for group in found.within_class} == expected["within"]


def shards(root: Path, *samples: tuple[str, int, int]) -> Path:
    """A shard per split, of samples (split, class, picture)."""
    for split in {split for split, _, _ in samples}:
        members = {}
        for number, (_, label, picture) in enumerate(s for s in samples if s[0] == split):
            members |= {f"{number:03d}.png": png(picture), f"{number:03d}.cls": str(label).encode()}
        write_tar(root / split / "0.tar", members)
    return root


def test_existing_shards_are_searched_too(tmp_path: Path) -> None:
    unique = [("train", n % 2, 100 + n) for n in range(4)]
    root = shards(
        tmp_path, *unique, ("train", 0, 1), ("val", 0, 1), ("val", 1, 2), ("val", 0, 2), ("val", 1, 3), ("val", 1, 3)
    )
    found: list[list[Duplicates]] = []
    index_existing(root, report=found.append)
    assert found == [
        [
            Duplicates(
                "bytes",
                across_splits=(("train/004", "val/000"),),
                across_classes=(("val/001", "val/002"),),
                within_class=(("val/003", "val/004"),),
            )
        ]
    ]


@pytest.mark.parametrize("seed", range(4))
def test_validation_that_is_made_from_shards_shares_no_image_with_training(tmp_path: Path, seed: int) -> None:
    """16 images, each of them five times: the split that ignores it has 14 of its 16 in training too."""
    root = shards(tmp_path, *(("train", n % 2, n % 16) for n in range(80)))
    found: list[list[Duplicates]] = []
    manifest = index_existing(root, report=found.append, seed=seed)
    assert found[0][0].across_splits == ()
    assert sum(len(group) for group in found[0][0].within_class) == 80
    assert len(manifest.splits["val"]) > 0
    contents = [set(images(manifest, split)) for split in ("train", "val")]
    assert contents[0] & contents[1] == set()
    assert contents[0] | contents[1] == {png(n) for n in range(16)}


def images(manifest: Manifest, name: str) -> list[bytes]:
    split = manifest.splits[name]
    data = [(manifest.root / shard.name).read_bytes() for shard in split.shards]
    return [data[split.shard[n]][split.offset[n] :][: split.size[n]] for n in range(len(split))]
