"""Preparing: whole or not at all, the same digest every time, and what a user may name."""

import multiprocessing
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from effnet_cluster.datasets import (
    DataError,
    Manifest,
    PreparingProgress,
    open_dataset,
    prepare,
    prepare_digits,
    verify_shards,
)

MakeFolder = Callable[[dict[str, int]], Path]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_digits_are_1797_and_stratified(digits: Manifest) -> None:
    train, val = digits.splits["train"], digits.splits["val"]
    assert len(train) + len(val) == 1797
    in_class = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(train.label) + np.bincount(val.label), in_class)
    np.testing.assert_array_equal(np.bincount(val.label), np.round(in_class * 0.2))
    assert not {train.key(i) for i in range(len(train))} & {val.key(i) for i in range(len(val))}
    assert (digits.image_size, digits.mirror_safe, digits.name) == (32, False, "digits")


def test_preparing_the_digits_twice_gives_the_same_digest(digits: Manifest, tmp_path: Path) -> None:
    again = prepare_digits(tmp_path / "again")
    assert again.digest == digits.digest
    assert list(verify_shards(again)) == []


def test_another_seed_gives_other_shards_of_the_same_images(
    photos: Path, photo_shards: Manifest, tmp_path: Path
) -> None:
    other = prepare(photos, tmp_path / "out", seed=1, samples_per_shard=3)
    assert other.digest != photo_shards.digest
    assert prepare(photos, tmp_path / "same", samples_per_shard=3).digest == photo_shards.digest
    keys = [{s.key(i) for s in m.splits.values() for i in range(len(s))} for m in (other, photo_shards)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("suffix", [".tgz", ".tar.gz", ".tar", ".zip"])
def test_an_archive_like_flower_photos_gives_what_its_folder_gives(
    photos: Path, photo_shards: Manifest, tmp_path: Path, suffix: str
) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "flower_photos"))
    (root / "LICENSE.txt").write_text("CC-BY")
    (root / "._china").write_bytes(b"macOS")
    archive = tmp_path / f"flower_photos{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in sorted(root.rglob("*")):
                zipped.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:gz" if suffix.endswith("gz") else "w") as tar:
            tar.add(root, "flower_photos")
    seen: list[PreparingProgress] = []
    manifest = prepare(archive, tmp_path / "out", samples_per_shard=3, progress=seen.append)
    assert manifest.digest == photo_shards.digest
    assert (manifest.name, manifest.classes) == ("flower_photos", ("china", "flower"))
    assert seen == [PreparingProgress(done, 20) for done in (3, 6, 9, 12, 15, 16, 19, 20)]
    assert names(tmp_path) == sorted(["flower_photos", archive.name, "out"])


def test_the_validation_split_is_stratified(photo_shards: Manifest) -> None:
    assert Counter(photo_shards.splits["val"].label.tolist()) == {0: 2, 1: 2}
    assert Counter(photo_shards.splits["train"].label.tolist()) == {0: 8, 1: 8}


def test_given_splits_keep_their_images(make_folder: MakeFolder, tmp_path: Path) -> None:
    manifest = prepare(make_folder({"train/a": 4, "train/b": 3, "validation/a": 2, "test/b": 1}), tmp_path / "out")
    assert {name: len(split) for name, split in manifest.splits.items()} == {"train": 7, "val": 2, "test": 1}
    assert set(Manifest.load(tmp_path / "out").splits["test"].label.tolist()) == {1}


def test_an_output_folder_that_is_not_empty_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(DataError, match="out: exists and is not empty"):
        prepare(photos, tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "precious"]


def test_an_empty_output_folder_and_missing_parents_are_fine(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert prepare(photos, tmp_path / "empty").root == tmp_path / "empty"
    prepare(photos, tmp_path / "new" / "deep")
    assert names(tmp_path / "new" / "deep") == ["account.json", "index.npz", "manifest.json", "train", "val"]
    assert (tmp_path / "new" / "deep").stat().st_mode & 0o055 == 0o055  # other users of the cluster may read it


def test_nothing_half_written_is_left_after_a_bad_image(photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    (root / "china" / "05.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(DataError, match=r"china/05\.jpg: not an image"):
        prepare(root, tmp_path / "out")
    with tarfile.open(tmp_path / "photos.tgz", "w:gz") as tar:
        tar.add(root, "photos")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/photos.tgz/photos/china/05.jpg: not an image")):
        prepare(tmp_path / "photos.tgz", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.copy(photos / "china" / "05.jpg", root / "china" / "05.jpg")
    prepare(root, tmp_path / "out")
    assert names(tmp_path) == ["out", "photos", "photos.tgz"]


def test_an_output_folder_that_appears_meanwhile_is_left_alone(photos: Path, tmp_path: Path) -> None:
    def rival(progress: PreparingProgress) -> None:
        if progress.done == 16:  # the first of two shards
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(DataError, match="exists and is not empty"):
        prepare(photos, tmp_path / "out", progress=rival)
    assert [p.name for p in tmp_path.rglob("*") if ".out.partial" not in str(p)] == ["out", "theirs"]


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "file.txt").touch()
    with pytest.raises(DataError, match=r"file\.txt: neither a folder nor an archive \(\.tar\.gz"):
        prepare(tmp_path / "file.txt", tmp_path / "out")
    assert names(tmp_path) == ["file.txt"]


def test_what_is_wrong_with_the_call_is_said_before_anything_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "damaged.tgz"
    archive.write_bytes(b"never opened")
    calls: list[tuple[dict[str, Any], str]] = [
        ({"val_fraction": 1.0}, "validation fraction"),
        ({"seed": -1}, "seed must be between"),
        ({"samples_per_shard": 0}, "at least 1"),
    ]
    for arguments, message in calls:
        with pytest.raises(DataError, match=message):
            prepare(archive, tmp_path / "out", **arguments)


def test_the_manifest_of_a_relative_path_is_good_from_anywhere(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for out in ("out", "here/."):
        prepare(photos, Path(out))
        assert open_dataset(out, tmp_path).root == tmp_path / Path(out)


def test_one_image_a_class_cannot_be_split(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class has the two images"):
        prepare(make_folder({"a": 1, "b": 1}), tmp_path / "out")


def test_a_prepared_folder_is_opened(photo_shards: Manifest, tmp_path: Path) -> None:
    assert open_dataset(str(photo_shards.root), tmp_path).digest == photo_shards.digest
    assert not names(tmp_path)


def test_what_is_not_prepared_is_refused_with_the_command_that_prepares_it(photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar.gz"
    archive.touch()
    expected = {
        str(tmp_path / "gone"): f"no such folder; make it with: effnet-cluster data prepare SOURCE {tmp_path}/gone",
        str(photos): f"not yet prepared; run: effnet-cluster data prepare {photos} {photos}-shards",
        str(archive): f"not yet prepared; run: effnet-cluster data prepare {archive} {tmp_path}/flowers-shards",
        str(tmp_path): "run: effnet-cluster data prepare SOURCE OUT",
    }
    for ref, message in expected.items():
        with pytest.raises(DataError, match=re.escape(message)):
            open_dataset(ref, tmp_path)


def open_digits(cache: str, barrier: Barrier, results: "Queue[str]") -> None:
    barrier.wait()
    manifest = open_dataset("digits", Path(cache))
    assert list(verify_shards(manifest)) == []
    results.put(manifest.digest)


def test_four_processes_may_ask_for_the_digits_at_once(digits: Manifest, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=open_digits, args=(str(tmp_path), barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [digits.digest] * 4
    for process in processes:
        process.join()
    assert names(tmp_path) == ["digits-v1"]


def test_a_damaged_copy_of_the_digits_says_what_to_remove(tmp_path: Path) -> None:
    open_dataset("digits", tmp_path)
    (tmp_path / "digits-v1" / "index.npz").write_bytes(b"")
    with pytest.raises(DataError, match="digits-v1: the stored copy of the digits is damaged; remove that folder"):
        open_dataset("digits", tmp_path)
