"""What labels mean: numbers in .cls are indices, all others are names; lists of names are read as people write them."""

import json
from pathlib import Path

import pytest

from effnet_cluster.datasets import DataError, Manifest, index_existing, read_class_names

from .tars import png, write_tar


def index(
    root: Path, labels: list[object], member: str = "cls", classes: list[str] | None = None
) -> tuple[Manifest, str]:
    """The manifest of samples with these labels, each three times, and what is said about them."""
    members = {}
    for number, label in enumerate(labels * 3):
        members[f"{number:04d}.png"] = png(number)
        extension, _, field = member.partition(":")
        members[f"{number:04d}.{extension}"] = (json.dumps({field: label}) if field else str(label)).encode()
    write_tar(root / "s.tar", members)
    told: list[str] = []
    manifest = index_existing(root, label=member, classes=classes, note=told.append)
    return manifest, "\n".join(told)


def labelled(manifest: Manifest) -> dict[int, str]:
    """The class of each sample, by its number."""
    return {
        int(split.key(row)): manifest.classes[split.label[row]]
        for split in manifest.splits.values()
        for row in range(len(split))
    }


# Labels, their member, the given classes → the classes, the class of each label, and what is said.
CASES: dict[str, tuple[list[object], str, list[str] | None, list[str], list[str], str]] = {
    "indices": ([0, 1, 2], "cls", None, ["0", "1", "2"], ["0", "1", "2"], "in .cls are indices of 3 classes"),
    "indices with gaps": ([1, 3], "cls", None, ["0", "1", "2", "3"], ["1", "3"], "2 of them have no image"),
    "indices of names": ([0, 1], "cls", ["cat", "dog"], ["cat", "dog"], ["cat", "dog"], "of the 2 given classes"),
    "indices of names that are numbers": (
        [0, 1, 2, 3],
        "cls",
        ["1", "2", "10", "11"],
        ["1", "2", "10", "11"],
        ["1", "2", "10", "11"],
        "are indices",
    ),
    "indices of names that repeat": (
        [0, 1, 2],
        "cls",
        ["crane", "tench", "crane"],
        ["crane (0)", "tench", "crane (2)"],
        ["crane (0)", "tench", "crane (2)"],
        "are indices",
    ),
    "indices with leading zeros": ([0, "01"], "cls", None, ["0", "1"], ["0", "1"], "are indices"),
    "one index unused": ([0, 2], "cls", None, ["0", "1", "2"], ["0", "2"], "1 of them has no image"),
    "names": (["dog", "cat"], "txt", None, ["cat", "dog"], ["dog", "cat"], "in .txt are the names of 2 classes"),
    "names of a list": (["dog", "cat"], "json:l", ["dog", "cat"], ["dog", "cat"], ["dog", "cat"], "json:l are names"),
    "years": ([2021, 2019], "json:year", None, ["2019", "2021"], ["2021", "2019"], "the names of 2 classes"),
    "names that are numbers": (
        [1, 2, 10, 11],
        "json:l",
        None,
        ["1", "2", "10", "11"],
        ["1", "2", "10", "11"],
        "in natural order",
    ),
    "numbers in text": (["1", "2", "10"], "txt", None, ["1", "2", "10"], ["1", "2", "10"], "in natural order"),
    "numbers from 0": ([0, 1, 2], "json:l", None, ["0", "1", "2"], ["0", "1", "2"], "the names of 3 classes"),
    "numbers and names": (["10", "9", "x"], "txt", None, ["9", "10", "x"], ["10", "9", "x"], "the names of 3 classes"),
    "numbers into a list of other names": ([1, 0], "json:l", ["a", "b"], ["a", "b"], ["b", "a"], "json:l are indices"),
    "numbers that are names of the list": (
        [10, 2],
        "json:l",
        ["2", "10"],
        ["2", "10"],
        ["10", "2"],
        "names of the 2 given classes",
    ),
    "two spellings of one name": (
        ["Ko\u0308ln", "K\u00f6ln", "Bonn"],
        "txt",
        None,
        ["Bonn", "K\u00f6ln"],
        ["K\u00f6ln", "K\u00f6ln", "Bonn"],
        "2 classes",
    ),
    "a list spelled the other way": (
        ["K\u00f6ln", "Bonn"],
        "txt",
        ["Ko\u0308ln", "Bonn"],
        ["K\u00f6ln", "Bonn"],
        ["K\u00f6ln", "Bonn"],
        "names of",
    ),
    "a mark and spaces in the text": (
        ["\ufeffcat ", " dog\n"],
        "txt",
        None,
        ["cat", "dog"],
        ["cat", "dog"],
        "2 classes",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_labels_mean_what_is_said(tmp_path: Path, case: str) -> None:
    labels, member, given, classes, expected, said = CASES[case]
    manifest, told = index(tmp_path, labels, member, given)
    assert list(manifest.classes) == classes
    assert labelled(manifest) == dict(enumerate(expected * 3))
    assert said in told
    assert told.count("\n") == 0


REFUSED: dict[str, tuple[list[object], str, list[str] | None, str]] = {
    "an index above the list": ([0, 2], "cls", ["a", "b"], "has label 2, but there are 2 classes without it"),
    "an index that is the name of a class": (
        [2019],
        "cls",
        ["2019", "2020"],
        "has label 2019, but there are 2 classes",
    ),
    "a name that is not listed": (["cat", "cow"], "txt", ["cat", "dog"], "has label cow, but there are 2 classes"),
    "names and indices mixed": ([0, 1], "json:l", ["1", "2"], "has label 0, but there are 2 classes"),
    "a name that is listed twice": (["cat"], "txt", ["cat", "dog", "cat"], "class 'cat' is given twice"),
    "a name in two spellings": (["o\u0308"], "txt", ["\u00f6", "o\u0308"], "is given twice"),
    "a class without a name": ([0], "cls", ["a", " "], "class 1 of the given ones has no name"),
    "a name made unique that is there": ([0], "cls", ["a", "a", "a (1)"], r"two classes are called 'a \(1\)'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_without_a_class_are_refused(tmp_path: Path, case: str) -> None:
    labels, member, given, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        index(tmp_path, labels, member, given)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


def test_a_class_of_val_that_train_lacks_is_refused_where_names_are_all_there_is(tmp_path: Path) -> None:
    for split, names in (("train", ("cat", "dog")), ("val", ("cat", "Dog"))):
        members = {f"{name}.{ext}": data for name in names for ext, data in (("png", png(3)), ("txt", name.encode()))}
        write_tar(tmp_path / split / "0.tar", members)
    with pytest.raises(DataError, match="class 'Dog' of val is not in train"):
        index_existing(tmp_path, label="txt")
    assert index_existing(tmp_path, label="txt", classes=("cat", "dog", "Dog")).classes == ("cat", "dog", "Dog")


LISTS = {
    "plain": b"cat\ndog\n",
    "no new line at the end": b"cat\ndog",
    "a mark": b"\xef\xbb\xbfcat\ndog\n",
    "Windows": b"\xef\xbb\xbfcat\r\ndog\r\n",
    "UTF-16": "cat\r\ndog\r\n".encode("utf-16"),
    "UTF-16, the other way round": b"\xfe\xff" + "cat\ndog\n".encode("utf-16-be"),
    "blank lines": b"\ncat\n\n  \ndog\n\n\n",
    "spaces": b" cat\t\ndog \n",
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_of_classes_holds_names_and_nothing_else(tmp_path: Path, case: str) -> None:
    (tmp_path / "classes.txt").write_bytes(LISTS[case])
    assert read_class_names(tmp_path / "classes.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9\n", "not a text in UTF-8"),
        (b"c\0a\0t\0\n\0", "zero bytes"),
        (b"\n\n", "no class names"),
        (None, "read"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / "classes.txt").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_class_names(tmp_path / "classes.txt")
