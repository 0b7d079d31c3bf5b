"""What a tree of folders means: splits, classes, wrappers; and what is refused because it could mean two things."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from effnet_cluster.datasets import DataError, parse_splits, prepare
from effnet_cluster.datasets.preparing.names import class_order, split_called, split_within
from effnet_cluster.datasets.preparing.sources import folder_source

from .trees import make_tree, picture

Tree = Mapping[str, int | str | bytes]


def counted(root: Path, splits: str | None = None) -> dict[str, dict[str, int]]:
    source = folder_source(root, splits=None if splits is None else parse_splits(splits))
    return {split: dict(Counter(r.class_name for r in records)) for split, records in source.splits.items()}


UNDERSTOOD: list[tuple[str, Tree, str | None, dict[str, dict[str, int]]]] = [
    (
        "capitals",
        {"Train/cat": 3, "Train/dog": 2, "Test/cat": 1},
        None,
        {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1}},
    ),
    ("-ing", {"Training/a": 2, "Training/b": 2, "Testing/b": 1}, None, {"train": {"a": 2, "b": 2}, "test": {"b": 1}}),
    ("dev", {"train/a": 2, "train/b": 2, "dev/a": 1}, None, {"train": {"a": 2, "b": 2}, "val": {"a": 1}}),
    (
        "all three",
        {"TRAIN/a": 2, "TRAIN/b": 1, "Valid/a": 1, "test/b": 1},
        None,
        {"train": {"a": 2, "b": 1}, "val": {"a": 1}, "test": {"b": 1}},
    ),
    ("years", {"train2017/a": 2, "train2017/b": 2, "val2017/a": 1}, None, {"train": {"a": 2, "b": 2}, "val": {"a": 1}}),
    (
        "prefixes and suffixes",
        {"train_images/a": 2, "train_images/b": 2, "images-validation/a": 1},
        None,
        {"train": {"a": 2, "b": 2}, "val": {"a": 1}},
    ),
    ("only train", {"train/a": 2, "train/b": 2}, None, {"train": {"a": 2, "b": 2}}),
    ("a wrapper", {"flower_photos/rose": 2, "flower_photos/tulip": 3}, None, {"train": {"rose": 2, "tulip": 3}}),
    ("two wrappers", {"a/b/rose": 2, "a/b/tulip": 3, "a/README": "hello"}, None, {"train": {"rose": 2, "tulip": 3}}),
    (
        "a wrapper around splits",
        {"data/train/a": 2, "data/train/b": 2, "data/valid/a": 1, "__MACOSX/data/x": "x"},
        None,
        {"train": {"a": 2, "b": 2}, "val": {"a": 1}},
    ),
    (
        "a wrapper in each split",
        {"seg_train/seg_train/a": 2, "seg_train/seg_train/b": 2, "seg_test/seg_test/a": 1},
        None,
        {"train": {"a": 2, "b": 2}, "test": {"a": 1}},
    ),
    (
        "a test without classes",
        {"train/a": 2, "train/b": 2, "test": 4, "sample_submission.csv": "id"},
        None,
        {"train": {"a": 2, "b": 2}},
    ),
    (
        "sub-folders of a class",
        {"rose/near": 2, "rose/far": 1, "tulip/field": 3},
        None,
        {"train": {"rose": 3, "tulip": 3}},
    ),
    ("a class called test_tube", {"test_tube": 2, "beaker": 2}, None, {"train": {"beaker": 2, "test_tube": 2}}),
    ("a class called validity", {"validity": 2, "trainer": 2}, None, {"train": {"trainer": 2, "validity": 2}}),
    ("numbers", {str(n): 1 for n in (1, 2, 10, 11)}, None, {"train": {"1": 1, "2": 1, "10": 1, "11": 1}}),
    (
        "strangers, settled",
        {"train/a": 2, "train/b": 2, "extra/a": 5, "val/b": 1},
        "train=train,train=extra,val=val",
        {"train": {"a": 7, "b": 2}, "val": {"b": 1}},
    ),
    ("strangers, left out", {"train/a": 2, "train/b": 2, "extra/a": 5}, "train=train", {"train": {"a": 2, "b": 2}}),
    ("a class called train", {"train": 2, "plane": 3}, "none", {"train": {"plane": 3, "train": 2}}),
    (
        "other names",
        {"learn/a": 2, "learn/b": 2, "check/a": 1},
        "train=learn,val=check",
        {"train": {"a": 2, "b": 2}, "val": {"a": 1}},
    ),
    (
        "splits within classes",
        {"cat/train": 2, "cat/test": 1, "dog/train": 3, "dog/test": 1},
        "train=*/train,test=*/test",
        {"train": {"cat": 2, "dog": 3}, "test": {"cat": 1, "dog": 1}},
    ),
    (
        "a folder further down",
        {"data/v2/train/a": 1, "data/v2/train/b": 1, "data/v1/train/a": 1},
        "train=data/v2/train",
        {"train": {"a": 1, "b": 1}},
    ),
]


@pytest.mark.parametrize(
    ("tree", "splits", "expected"), [case[1:] for case in UNDERSTOOD], ids=[c[0] for c in UNDERSTOOD]
)
def test_a_tree_is_understood(
    tmp_path: Path, tree: Tree, splits: str | None, expected: dict[str, dict[str, int]]
) -> None:
    found = counted(make_tree(tmp_path / "raw", tree), splits)
    assert found == expected
    assert list(found["train"]) == list(expected["train"])  # the order of the labels


REFUSED: list[tuple[str, Tree, str]] = [
    (
        "a split beside strangers",
        {"train/a": 2, "val/a": 1, "extra/a": 3},
        "train, val: named like a split, but beside",
    ),
    ("flat strangers too", {"train": 2, "plane": 3}, "train: named like a split"),
    ("flat splits", {"train": 2, "test": 3}, "named like splits, but hold no class folders"),
    ("flat val", {"train/a": 2, "val": 3}, "val: its images are in no class folders"),
    ("two of one", {"train/a": 1, "val/a": 1, "validation/a": 1}, "val and validation both look like val"),
    ("no train", {"val/a": 2, "test/a": 2}, "no folder of train"),
    ("a nested copy", {"cells/good": 1, "cells/bad": 1, "good": 1, "bad": 1}, "cells: holds bad once more"),
    (
        "a nested copy of splits",
        {"chest/train/a": 1, "chest/train/b": 1, "train/a": 1, "train/b": 1},
        "train: named like a split, but beside",
    ),
    (
        "the same sub-folders",
        {"one/a": 1, "one/b": 1, "two/a": 1, "two/b": 1},
        "all folders hold the same sub-folders, a, b",
    ),
    ("splits within classes", {"cat/train": 1, "cat/test": 1, "dog/train": 1}, "cat: holds a split's folder, test"),
    (
        "a wrapper beside images",
        {"photos/rose": 1, "photos/tulip": 1, "preview": 1},
        "photos holds folders of images, preview",
    ),
    (
        "within a split",
        {"train/one/a": 1, "train/two/a": 1, "test/one/a": 1},
        "all folders hold the same sub-folders, a",
    ),
]


@pytest.mark.parametrize(("tree", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_could_mean_two_things_is_refused_with_the_tree_and_the_option(
    tmp_path: Path, tree: Tree, message: str
) -> None:
    root = make_tree(tmp_path / "raw", tree)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        folder_source(root)
    shown = str(caught.value)
    assert "--splits" in shown
    assert {path.name for path in root.iterdir()} <= set(re.findall(r"^  ([^:]+):", shown, re.M)) | {"train", "test"}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"": 3}, "no class folders with images"),
        ({"a": 1, "b": 0}, "b: a class folder without images"),
        ({"a": 1, "b/notes.txt": "x"}, "b: a class folder without images"),
        ({"train/a": 1, "train/c": 1, "val/b": 1}, "class 'b' of val is not in train"),
        ({"a.txt": "x"}, "no class folders with images"),
    ],
)
def test_a_tree_of_another_shape_is_refused(tmp_path: Path, tree: Tree, message: str) -> None:
    with pytest.raises(DataError, match=message):
        folder_source(make_tree(tmp_path / "raw", tree))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("train", "give train=FOLDER"),
        ("val=a", "names no folder of train"),
        ("learn=a", "give train=FOLDER"),
        ("train=", "give train=FOLDER"),
        ("train=gone", "--splits gone: no such folder with images"),
        ("train=a,val=a", "a/x: is in several splits"),
        ("train=*/gone", "no such folder"),
        ("train=../raw/a", "no such folder"),
    ],
)
def test_splits_that_name_nothing_are_refused(tmp_path: Path, splits: str, message: str) -> None:
    root = make_tree(tmp_path / "raw", {"a/x": 1, "a/y": 1, "b/x": 1})
    with pytest.raises(DataError, match=re.escape(message)):
        counted(root, splits)


def test_a_single_class_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"rose": 4})
    with pytest.raises(DataError, match=r"a single class, 'rose', is nothing to tell apart; .*--one-class"):
        prepare(root, tmp_path / "out")
    assert prepare(root, tmp_path / "out", one_class=True).classes == ("rose",)


def test_a_test_split_is_kept_apart_and_validation_is_taken_from_training(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"Train/a": 5, "Train/b": 5, "Test/a": 3, "Test/b": 2})
    manifest = prepare(root, tmp_path / "out")
    assert {split: len(manifest.splits[split]) for split in manifest.splits} == {"train": 8, "val": 2, "test": 5}


def test_names_that_look_alike_are_one_class(tmp_path: Path) -> None:
    """macOS writes é as two characters, others as one."""
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    tree: dict[str, int | str | bytes] = {f"train/{names[0]}": 2, "train/tea": 1, f"val/{names[1]}": 1}
    root = make_tree(tmp_path / "raw", tree)
    (root / "train" / names[1]).mkdir()
    (root / "train" / names[1] / "x.png").write_bytes(picture(99))
    assert counted(root) == {"train": {"café": 3, "tea": 1}, "val": {"café": 1}}


def test_a_class_name_that_is_not_utf8_is_told_before_anything_is_built(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"b": 2})
    import os

    os.mkdir(os.fsencode(root) + b"/\xc4\xe3")  # noqa: PTH102
    (root / os.fsdecode(b"\xc4\xe3") / "x.png").write_bytes(picture(7))
    with pytest.raises(DataError, match=r"\\xc4\\xe3: the name is not UTF-8, so it can be no class; rename"):
        prepare(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("name", "exact", "within"),
    [
        ("train", "train", "train"),
        ("TESTING", "test", "test"),
        (" Validation", "val", "val"),
        ("dev", "val", "val"),
        ("TrainSet", "train", "train"),
        ("my-train-images", None, "train"),
        ("TestImages", None, "test"),
        ("val_512x512", None, "val"),
        ("trainval", None, None),
        ("train_val", None, None),
        ("contest", None, None),
        ("restraint", None, None),
        ("valley", None, None),
    ],
)
def test_a_name_is_a_split_or_not(name: str, exact: str | None, within: str | None) -> None:
    assert (split_called(name), split_within(name)) == (exact, within)


def test_classes_stand_in_natural_order() -> None:
    given = ["10", "2", "1", "11", "a10", "a9", "a", "B", "007", "x2y10", "x2y9", "x10"]
    assert class_order(given) == ("1", "2", "007", "10", "11", "B", "a", "a9", "a10", "x2y9", "x2y10", "x10")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("from,to\ncat,pet\ndog,pet\ncow,farm\n", {"pet": 5, "farm": 1}),
        ("from,to\ncow,Kuh\ncat,Katze\ndog,Hund\n", {"Kuh": 1, "Katze": 2, "Hund": 3}),
        ("from;to\ncat;pet\ndog;pet\ncow;farm\n", {"pet": 5, "farm": 1}),
        ("\ufefffrom,to\r\ncat,cat\r\ndog,\r\ncow,cow\r\n", {"cat": 2, "cow": 1}),
    ],
)
def test_a_class_map_renames_merges_orders_and_leaves_out(tmp_path: Path, rows: str, expected: dict[str, int]) -> None:
    from effnet_cluster.datasets import read_class_map

    (tmp_path / "map.csv").write_text(rows, "utf-8")
    source = folder_source(make_tree(tmp_path / "raw", {"cat": 2, "dog": 3, "cow": 1}))
    mapped = source.mapped(read_class_map(tmp_path / "map.csv"))
    assert mapped.classes == tuple(expected)
    assert Counter(record.class_name for record in mapped.splits["train"]) == expected
    left = mapped.ignored.get("left out by the class map", ())
    assert len(left) + len(mapped.splits["train"]) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("from,to\ncat,pet\n", "class 'dog' is not in the class map"),
        ("from,to\ncat,pet\ndog,pet\nhen,pet\n", "class 'hen' of the class map is not in the data"),
        ("from,to\ncat,\ndog,\n", "leaves no class"),
        ("from,to\ncat,pet\ncat,dog\n", "line 3: maps 'cat' again"),
        ("old,new\ncat,pet\n", "no column 'from'; it has old, new"),
        ("from,to\n", "maps no class"),
        ("from,to\ncat,a,b\n", "line 2: 3 fields, but the header has 2"),
        ("from,to\n,pet\n", "line 2: maps no class"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    from effnet_cluster.datasets import read_class_map

    (tmp_path / "map.csv").write_text(rows)
    source = folder_source(make_tree(tmp_path / "raw", {"cat": 2, "dog": 3}))
    with pytest.raises(DataError, match=re.escape(message)):
        source.mapped(read_class_map(tmp_path / "map.csv"))
