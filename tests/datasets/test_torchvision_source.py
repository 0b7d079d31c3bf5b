"""torchvision's data sets: after preparing, the same pixels, labels and class names that torchvision itself gives.

The files are small ones in the layouts that torchvision reads. Where it checks the MD5 of real files (CIFAR and the
label files of Flowers102), the test puts the sums of its own files into torchvision's table; the check itself runs.
"""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv

from effnet_cluster.datasets import DataError, Manifest, prepare
from effnet_cluster.datasets.decoding.images import decode_rgb

RANDOM = np.random.default_rng(0)


def jpeg(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 256, (*RANDOM.integers(9, 20, 2), 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    for number in range(1, 13):
        jpeg(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": [[1, 2, 102, 7, 1, 2, 102, 7, 1, 2, 102, 7]]})
    # As in the real file, the numbers of a split are not contiguous.
    savemat(folder / "setid.mat", {"trnid": [[1, 3, 6, 8]], "valid": [[2, 7]], "tstid": [[12, 4, 5, 9, 10, 11]]})
    names = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    sums = {key: (name, md5(folder / name) if key != "image" else "") for key, name in names.items()}
    patch.setattr(tv.Flowers102, "_file_dict", sums)


def stanford_cars(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "stanford_cars"
    kind = np.dtype([("class", object), ("fname", object)])
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(number % 3 + 1, f"{number:05d}.jpg") for number in range(1, 6)]
        for _, name in rows:
            jpeg(folder / f"cars_{split}" / name)
        (folder / "devkit").mkdir(exist_ok=True)
        savemat(folder / path, {"annotations": np.array(rows, dtype=kind)})
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo"], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def fgvc_aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "A340-600", "Boeing 717"]
    text(folder / "variants.txt", "".join(f"{variant}\n" for variant in variants))
    for split, numbers in (("trainval", range(7)), ("test", range(7, 12))):
        for number in numbers:
            jpeg(folder / "images" / f"{number:07d}.jpg")
        lines = (f"{number:07d} {variants[number % 3]}\n" for number in numbers)
        text(folder / f"images_variant_{split}.txt", "".join(lines))


def oxford_pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    breeds = [("Abyssinian", 1, 1), ("american_bulldog", 2, 2), ("Egyptian_Mau", 3, 1)]
    for split, numbers in (("trainval", (1, 2)), ("test", (3, 4, 5))):
        lines = []
        for breed, label, species in breeds:
            for number in numbers:
                jpeg(folder / "images" / f"{breed}_{number}.jpg")
                lines.append(f"{breed}_{number} {label} {species} 1\n")
        text(folder / "annotations" / f"{split}.txt", "".join(lines))


def food101(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "food-101"
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        # The real file's classes are not in the order of their labels either.
        paths = {dish: [f"{dish}/{n}" for n in numbers] for dish in ("waffles", "apple_pie", "baklava")}
        for path in (path for of_dish in paths.values() for path in of_dish):
            jpeg(folder / "images" / f"{path}.jpg")
        text(folder / "meta" / f"{split}.json", json.dumps(paths))


def imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    names = {
        "n02012849": ("crane",),
        "n01440764": ("tench", "Tinca tinca"),
        "n03126707": ("crane",),
    }
    for wnid in names:
        for split, numbers in (("train", range(3)), ("val", range(3, 5))):
            for number in numbers:
                jpeg(root / split / wnid / f"{wnid}_{number}.JPEG")
    torch.save((names, []), root / "meta.bin")


def cifar(root: Path, patch: pytest.MonkeyPatch, kind: Any, files: dict[str, int], label_key: str) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name, count in files.items():
        labels = RANDOM.integers(0, 3, count).tolist()
        pixels = RANDOM.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, label_key: labels}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["ship", "cat", "airplane"]}))
    for table in ("train_list", "test_list"):
        patch.setattr(kind, table, [[name, md5(folder / name)] for name, _ in getattr(kind, table)])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})


def cifar10(root: Path, patch: pytest.MonkeyPatch) -> None:
    files = {f"data_batch_{number}": 4 for number in range(1, 6)} | {"test_batch": 7}
    cifar(root, patch, tv.CIFAR10, files, "labels")


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> None:
    cifar(root, patch, tv.CIFAR100, {"train": 15, "test": 8}, "fine_labels")


CASES: list[tuple[str, Callable[[Path, pytest.MonkeyPatch], None], list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("CIFAR10", cifar10, [{"train": True}], [{"train": False}]),
    ("CIFAR100", cifar100, [{"train": True}], [{"train": False}]),
    ("Flowers102", flowers102, [{"split": "train"}, {"split": "val"}], [{"split": "test"}]),
    ("StanfordCars", stanford_cars, [{"split": "train"}], [{"split": "test"}]),
    ("FGVCAircraft", fgvc_aircraft, [{"split": "trainval"}], [{"split": "test"}]),
    ("OxfordIIITPet", oxford_pets, [{"split": "trainval"}], [{"split": "test"}]),
    ("Food101", food101, [{"split": "train"}], [{"split": "test"}]),
    ("ImageNet", imagenet, [{"split": "train"}], [{"split": "val"}]),
]


def seen_by_torchvision(parts: list[Any]) -> list[tuple[int, bytes]]:
    return sorted((int(label), pixel_bytes(image)) for part in parts for image, label in part)


def seen_by_us(manifest: Manifest, name: str) -> list[tuple[int, bytes]]:
    split = manifest.splits[name]
    shards = [(manifest.root / shard.name).read_bytes() for shard in split.shards]
    return sorted(
        (int(split.label[n]), pixel_bytes(decode_rgb(shards[split.shard[n]][split.offset[n] :][: split.size[n]])))
        for n in range(len(split))
    )


def pixel_bytes(image: Image.Image) -> bytes:
    assert image.mode == "RGB"
    return f"{image.size}".encode() + image.tobytes()


@pytest.mark.parametrize(("name", "make", "train", "val"), CASES, ids=[case[0] for case in CASES])
def test_pixels_labels_and_names_are_torchvisions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make: Callable[[Path, pytest.MonkeyPatch], None],
    train: list[dict[str, Any]],
    val: list[dict[str, Any]],
) -> None:
    make(tmp_path / "root", monkeypatch)
    before = sorted(path for path in tmp_path.rglob("*"))
    manifest = prepare(f"torchvision:{name.lower()}@{tmp_path}/root", tmp_path / "out", samples_per_shard=4)
    assert [path for path in before if not path.exists()] == []
    kind = getattr(tv, name)
    for split, arguments in (("train", train), ("val", val)):
        theirs = [kind(str(tmp_path / "root"), **of_part) for of_part in arguments]
        assert seen_by_us(manifest, split) == seen_by_torchvision(theirs)
    assert (manifest.name, list(manifest.splits)) == (name.lower(), ["train", "val"])
    if name == "ImageNet":  # torchvision gives tuples, and "crane" twice
        assert manifest.classes == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
    else:
        assert list(manifest.classes) == list(theirs[0].classes)
    assert len(set(manifest.classes)) == len(manifest.classes)


def test_the_files_stay_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    food101(tmp_path / "root", monkeypatch)
    manifest = prepare(f"torchvision:Food101@{tmp_path}/root", tmp_path / "out")
    stored = set()
    for split in manifest.splits.values():
        shard = (manifest.root / split.shards[0].name).read_bytes()
        stored |= {shard[offset:][:size] for offset, size in zip(split.offset, split.size, strict=True)}
    assert stored == {path.read_bytes() for path in (tmp_path / "root").rglob("*.jpg")}


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {
        "torchvision:MNIST@/": "no such data set; torchvision:NAME@FOLDER knows CIFAR10, CIFAR100, Flowers102",
        "torchvision:cifar10": "say where its files are: torchvision:CIFAR10@FOLDER",
        f"torchvision:cifar10@{tmp_path}/gone": "gone: no such folder",
        f"torchvision:CIFAR10@{tmp_path}": "Dataset not found or corrupted",
        f"torchvision:food101@{tmp_path}": "Dataset not found",
        f"torchvision:StanfordCars@{tmp_path}": "Dataset not found",
        f"torchvision:imagenet@{tmp_path}": r"no meta\.bin there; .* unpacks it once",
    }
    for reference, message in expected.items():
        with pytest.raises(DataError, match=message) as caught:
            prepare(reference, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert "download" not in str(caught.value)
    cifar10(tmp_path / "root", monkeypatch)
    with (tmp_path / "root" / "cifar-10-batches-py" / "test_batch").open("ab") as file:
        file.write(b".")
    with pytest.raises(DataError, match="not found or corrupted"):  # nothing of a file with another MD5 is unpickled
        prepare(f"torchvision:CIFAR10@{tmp_path}/root", tmp_path / "out")
    assert not (tmp_path / "out").exists()
