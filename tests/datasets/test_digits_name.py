"""The word "digits" and a folder of that name: the embedded data never stand in for a user's without a word."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_cluster.datasets import DataError, Manifest, open_dataset


def nothing(place: Path, prepared: Path) -> None:
    """Nothing is called digits."""


def prepared_folder(place: Path, prepared: Path) -> None:
    prepared.rename(place)


def empty_folder(place: Path, prepared: Path) -> None:
    place.mkdir()  # as a disk that is not mounted leaves it


def link_to_a_folder(place: Path, prepared: Path) -> None:
    place.symlink_to(prepared)


def broken_link(place: Path, prepared: Path) -> None:
    place.symlink_to(place.with_name("disk-that-is-not-there"))


def plain_file(place: Path, prepared: Path) -> None:
    place.write_text("no data set can be a file")


def link_to_a_file(place: Path, prepared: Path) -> None:
    plain_file(place.with_name("notes"), prepared)
    place.symlink_to("notes")


def deeper_folder(place: Path, prepared: Path) -> None:
    (place.parent / "data" / "digits").mkdir(parents=True)


Make = Callable[[Path, Path], None]


@pytest.fixture
def prepared(photo_shards: Manifest, tmp_path: Path) -> Path:
    """A small data set that is not the digits."""
    return Path(shutil.copytree(photo_shards.root, tmp_path / "prepared"))


@pytest.fixture
def cache(digits: Manifest, tmp_path: Path) -> Path:
    """A cache that has the digits already."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digits-v1").symlink_to(digits.root)
    return tmp_path / "cache"


@pytest.mark.parametrize("make", [prepared_folder, empty_folder, link_to_a_folder, broken_link])
def test_a_folder_called_digits_makes_the_word_ambiguous(
    make: Make, prepared: Path, cache: Path, digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    make(tmp_path / "here" / "digits", prepared)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match=r"^digits: ambiguous, .*; write \./digits for the folder") as caught:
        open_dataset("digits", cache)
    assert "\n" not in str(caught.value)
    # What a record says was understood when it was written.
    assert open_dataset("digits", cache, typed=False).digest == digits.digest


@pytest.mark.parametrize("make", [nothing, plain_file, link_to_a_file, deeper_folder])
def test_without_such_a_folder_the_word_means_the_embedded_digits(
    make: Make, prepared: Path, cache: Path, digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    make(tmp_path / "here" / "digits", prepared)
    monkeypatch.chdir(tmp_path / "here")
    assert open_dataset("digits", cache).digest == digits.digest


@pytest.mark.parametrize("ref", ["./digits", "digits/", "../here/digits", "{here}/digits", "file://{here}/digits"])
def test_a_path_opens_the_folder(
    ref: str, prepared: Path, cache: Path, photo_shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    prepared.rename(here / "digits")
    monkeypatch.chdir(here)
    manifest = open_dataset(ref.format(here=here), cache)
    assert (manifest.digest, manifest.root.resolve()) == (photo_shards.digest, here / "digits")
