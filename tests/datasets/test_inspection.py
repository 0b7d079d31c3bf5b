"""Inspecting: the numbers are those of the source's files, and the picture shows the right images in the right rows."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from effnet_cluster.datasets import DataError, Manifest, contact_sheet, inspect_dataset, open_dataset, prepare

from .servers import http_server


def test_the_numbers_are_those_of_the_files(photos: Path, photo_shards: Manifest) -> None:
    found = inspect_dataset(photo_shards)
    sizes = [Image.open(path).size for path in photos.glob("*/*.jpg")]
    assert sum(split.images for split in found.splits.values()) == len(sizes)
    assert min(split.short_side[0] for split in found.splits.values()) == min(map(min, sizes))
    assert max(split.long_side[-1] for split in found.splits.values()) == max(map(max, sizes))
    for name, split in found.splits.items():
        tars = list((photo_shards.root / name).glob("*.tar"))
        assert (split.shards, split.bytes) == (len(tars), sum(tar.stat().st_size for tar in tars))
        assert split.counts == ((8, 8) if name == "train" else (2, 2))
        assert (split.imbalance, split.evenness, split.measured) == (1.0, 1.0, split.images)
        assert list(split.short_side) == sorted(split.short_side)
    assert json.loads(json.dumps(found.as_dict()))["splits"]["train"]["counts"] == {"china": 8, "flower": 8}


def test_balance_of_unequal_classes(tmp_path: Path) -> None:
    for name, count in {"train/a": 6, "train/b": 2, "val/a": 1}.items():
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4 + number, 3)).save(tmp_path / "raw" / name / f"{number}.png")
    found = inspect_dataset(prepare(tmp_path / "raw", tmp_path / "out")).splits
    assert found["train"].imbalance == 3.0
    assert found["train"].evenness == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * np.log2(4))
    assert found["val"].imbalance == float("inf")
    assert found["train"].long_side[0] == 4
    assert found["train"].long_side[-1] == 9


def test_the_sheet_shows_the_images_of_each_class_in_its_row(photos: Path, photo_shards: Manifest) -> None:
    sheet = np.asarray(contact_sheet(photo_shards).convert("RGB"), dtype=int)
    rows = sheet[40:].reshape(2, 100, *sheet.shape[1:])
    for row, name in zip(rows, ("china", "flower"), strict=True):
        own = sum(appears(row, path) for path in (photos / name).glob("*.jpg"))
        others = sum(
            appears(row, path) for folder in {"china", "flower"} - {name} for path in (photos / folder).iterdir()
        )
        assert (own, others) == (8, 0)


def appears(row: "np.ndarray[tuple[int, ...], np.dtype[np.int_]]", path: Path) -> bool:
    """Whether a picture stands in one of the ten cells of a row, which are 100 pixels apart and end with the row."""
    image = np.asarray(ImageOps.contain(Image.open(path).convert("RGB"), (96, 96)), dtype=int)
    top, left = (96 - image.shape[0]) // 2, (96 - image.shape[1]) // 2
    for number in range(10):
        cell = row[:96, row.shape[1] - 100 * (10 - number) :][:, :96]
        if np.array_equal(cell[top : top + image.shape[0], left : left + image.shape[1]], image):
            return True
    return False


def test_of_many_classes_some_are_shown_and_long_names_fit(tmp_path: Path) -> None:
    for number in range(70):
        folder = tmp_path / "raw" / f"{number:02d} a very long name of a class that no column of a sheet could hold"
        folder.mkdir(parents=True)
        for value in range(2):
            Image.new("L", (8, 8), number * 3 + value).save(folder / f"{value}.png")
    sheet = contact_sheet(prepare(tmp_path / "raw", tmp_path / "out"), max_classes=5)
    assert sheet.size == (sheet.width, 40 + 5 * 100)
    assert sheet.width < 1300
    with pytest.raises(DataError, match="no split 'test'"):
        contact_sheet(Manifest.load(tmp_path / "out"), "test")


def test_remote_data_are_inspected_by_one_shard_a_split(photo_shards: Manifest, tmp_path: Path) -> None:
    with http_server(photo_shards.root) as (address, behaviour):
        manifest = open_dataset(address, tmp_path)
        found = inspect_dataset(manifest)
        sheet = contact_sheet(manifest)
        asked = Counter(path.rpartition("/")[0] for path in behaviour.requests if path.endswith(".tar"))
    assert {name: (split.images, split.measured) for name, split in found.splits.items()} == {
        "train": (16, 3),
        "val": (4, 3),
    }
    assert set(asked.values()) == {1}
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    assert buffer.tell() > 10_000


def test_a_damaged_image_is_named(tmp_path: Path, photos: Path) -> None:
    manifest = prepare(photos, tmp_path / "out")
    split = manifest.splits["train"]
    path = manifest.root / split.shards[0].name
    data = bytearray(path.read_bytes())
    data[split.offset[4] : split.offset[4] + 20] = bytes(20)
    path.write_bytes(data)
    for look in (inspect_dataset, lambda found: contact_sheet(found)):
        with pytest.raises(DataError, match=f"sample {split.key(4)}: not an image"):
            look(manifest)
