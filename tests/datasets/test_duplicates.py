"""Images in several splits are found by bytes and by pixels, told, and dropped only when asked."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_cluster.datasets import DataError, Duplicates, Manifest, prepare, processes


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
    shutil.copy(photos / "china" / "03.jpg", root / "train" / "china" / "twice_in_train.jpg")  # no leak
    return root


def names(group: tuple[str, ...]) -> list[str]:
    """Without the number in front of a key's stem."""
    return sorted(f"{split}/{key.split('-', 1)[1]}" for split, key in (sample.split("/") for sample in group))


def test_they_are_found_and_named_and_stay(leaky: Path, tmp_path: Path) -> None:
    found: list[list[Duplicates]] = []
    manifest = prepare(leaky, tmp_path / "out", report=found.append)
    ((by_bytes,),) = found
    assert (by_bytes.same, [names(group) for group in by_bytes.groups]) == (
        "bytes",
        [["train/01", "val/copy", "val/mislabelled"]],
    )
    assert {name: len(split) for name, split in manifest.splits.items()} == {"train": 13, "val": 11}


def test_the_same_pixels_in_another_file_are_found_when_asked(leaky: Path, tmp_path: Path) -> None:
    found: list[list[Duplicates]] = []
    prepare(leaky, tmp_path / "out", report=found.append, pixel_duplicates=True, samples_per_shard=3)
    ((by_bytes, by_pixels),) = found
    assert len(by_bytes.groups) == 1
    assert by_pixels.same == "pixels"
    assert sorted(names(group) for group in by_pixels.groups) == [
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
    assert [duplicates.groups for duplicates in found[0]] == [()] * (1 + pixels)
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
    prepare(tmp_path / "raw", tmp_path / "out", report=found.append, pixel_duplicates=True)
    assert found == [[Duplicates("bytes", ()), Duplicates("pixels", ())]]
