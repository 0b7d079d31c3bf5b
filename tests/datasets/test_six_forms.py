"""The same photographs in six forms give six times the same classes, counts and contents."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_cluster.datasets import Columns, Manifest, Understanding, index_existing, prepare
from effnet_cluster.datasets.reading.reader import ShardReader

from ..photos import cut_photos

PER_CLASS = 150


@pytest.fixture(scope="module")
def set_of_300(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_photos(tmp_path_factory.mktemp("photos") / "photos", (40, 70), PER_CLASS)


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.jpg"))


def as_folder(root: Path, place: Path) -> Manifest:
    return prepare(root, place / "out")


def as_zip(root: Path, place: Path) -> Manifest:
    with zipfile.ZipFile(place / "photos.zip", "w") as zipped:
        for path in files(root):
            zipped.write(path, path.relative_to(root.parent))
    return prepare(place / "photos.zip", place / "out")


def as_tgz_with_hard_links(root: Path, place: Path) -> Manifest:
    """As tar writes a tree in which files have several names: two of three are links."""
    copy = Path(shutil.copytree(root, place / "photos"))
    with tarfile.open(place / "photos.tgz", "w:gz") as tar:
        for number, path in enumerate(files(copy)):
            name = path.relative_to(place).as_posix()
            if number % 3:
                store = tarfile.TarInfo(f"photos/.store/{number}")
                data = path.read_bytes()
                store.size = len(data)
                tar.addfile(store, io.BytesIO(data))
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.LNKTYPE, store.name
                tar.addfile(link)
            else:
                tar.add(path, name)
    return prepare(place / "photos.tgz", place / "out")


def as_csv(root: Path, place: Path) -> Manifest:
    copy = Path(shutil.copytree(root, place / "photos"))
    with (place / "list.csv").open("w", encoding="utf-16", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["file", "kind"])
        rows.writerows([str(path.relative_to(place)).replace("/", "\\"), path.parent.name] for path in files(copy))
    columns = Columns(path="file", label="kind")
    return prepare(place / "list.csv", place / "out", understanding=Understanding(columns=columns))


def as_hugging_face(root: Path, place: Path) -> Manifest:
    train = place / "photos" / "train"
    train.mkdir(parents=True)
    with (train / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label"])
        for path in files(root):
            name = f"{path.parent.name}-{path.name}"
            shutil.copy(path, train / name)
            rows.writerow([name, path.parent.name])
    return prepare(place / "photos", place / "out")


def as_shards_with_dotted_keys(root: Path, place: Path) -> Manifest:
    for number in range(3):
        with tarfile.open(place / f"photos-{number:06d}.tar", "w") as tar:
            for path in files(root)[number::3]:
                key = f"{path.parent.name}.v1.{path.stem}"
                members = {"jpg": path.read_bytes(), "json": json.dumps({"label": path.parent.name}).encode()}
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return index_existing(place, label="json:label")


FORMS: list[Callable[[Path, Path], Manifest]] = [
    as_folder,
    as_zip,
    as_tgz_with_hard_links,
    as_csv,
    as_hugging_face,
    as_shards_with_dotted_keys,
]


def contents(manifest: Manifest) -> Counter[tuple[str, str]]:
    """Class and sha256 of each image."""
    found: Counter[tuple[str, str]] = Counter()
    for name, split in manifest.splits.items():
        reader = ShardReader(manifest, name, window=1)
        for sample, label in enumerate(split.label.tolist()):
            found[manifest.classes[label], hashlib.sha256(reader.read(sample).data).hexdigest()] += 1
        reader.close()
    return found


@pytest.mark.parametrize("form", FORMS, ids=[form.__name__ for form in FORMS])
def test_each_form_holds_the_same(set_of_300: Path, tmp_path: Path, form: Callable[[Path, Path], Manifest]) -> None:
    manifest = form(set_of_300, tmp_path)
    assert manifest.classes == ("china", "flower")
    expected = Counter((path.parent.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files(set_of_300))
    assert contents(manifest) == expected
    assert {name: len(split) for name, split in manifest.splits.items()} == {"train": 240, "val": 60}
