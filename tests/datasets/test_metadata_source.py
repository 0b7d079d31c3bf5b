"""Hugging Face's imagefolder: a metadata file says what each image is, and all other files are accounted for."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.datasets import Columns, DataError
from effnet_cluster.datasets.preparing.metadata_source import has_metadata, metadata_source

Rows = list[dict[str, Any]]


def make(root: Path, tables: dict[str, Rows | str], images: list[str]) -> Path:
    """Metadata files, from rows or as text, and files with their own names in them."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    for name, rows in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("w", newline="") as file:
            if isinstance(rows, str):
                file.write(rows)
            elif name.endswith(".jsonl"):
                file.writelines(f"{json.dumps(row)}\n" for row in rows)
            else:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    return root


def rows(*pairs: tuple[str, Any], column: str = "file_name", label: str = "label") -> Rows:
    return [{column: name, label: value} for name, value in pairs]


ABC = ["0.jpg", "1.jpg", "2.jpg"]
PAIRS = [("0.jpg", "cat"), ("1.jpg", "dog"), ("2.jpg", "cat")]
SPLITS = {"train": [("train/0.jpg", "cat"), ("train/1.jpg", "dog")], "val": [("validation/2.jpg", "cat")]}
IN_SPLITS = ["train/0.jpg", "train/1.jpg", "validation/2.jpg"]

# Metadata and images → what each split holds, and what is ignored.
Case = tuple[dict[str, Rows | str], list[str], dict[str, list[tuple[str, str]]], dict[str, list[str]]]
UNDERSTOOD: dict[str, Case] = {
    "a CSV": ({"metadata.csv": rows(*PAIRS)}, ABC, {"train": PAIRS}, {"no image": ["metadata.csv"]}),
    "JSON lines": ({"metadata.jsonl": rows(*PAIRS)}, ABC, {"train": PAIRS}, {"no image": ["metadata.jsonl"]}),
    "another column for the files": (
        {"metadata.csv": rows(*PAIRS, column="image_file_name")},
        ABC,
        {"train": PAIRS},
        {"no image": ["metadata.csv"]},
    ),
    "a mask beside the image": (
        {"metadata.csv": [{"file_name": n, "mask_file_name": "1.jpg", "label": c} for n, c in PAIRS]},
        ABC,
        {"train": PAIRS},
        {"no image": ["metadata.csv"]},
    ),
    "semicolons": (
        {"metadata.csv": "file_name;label\r\n0.jpg;cat\r\n1.jpg;dog\r\n2.jpg;cat\r\n"},
        ABC,
        {"train": PAIRS},
        {"no image": ["metadata.csv"]},
    ),
    "numbers in JSON": (
        {"metadata.jsonl": rows(("0.jpg", 10), ("1.jpg", 9))},
        ABC[:2],
        {"train": [("0.jpg", "10"), ("1.jpg", "9")]},
        {"no image": ["metadata.jsonl"]},
    ),
    "boxes and captions in JSON, and a blank line": (
        {
            "metadata.jsonl": "".join(
                json.dumps({"file_name": n, "label": c, "boxes": [[1, 2]], "text": "a\nb", "none": None}) + "\n\n"
                for n, c in PAIRS
            )
        },
        ABC,
        {"train": PAIRS},
        {"no image": ["metadata.jsonl"]},
    ),
    "a file for each split": (
        {
            "train/metadata.csv": rows(("0.jpg", "cat"), ("1.jpg", "dog")),
            "validation/metadata.csv": rows(("2.jpg", "cat")),
        },
        IN_SPLITS,
        SPLITS,
        {"no image": ["train/metadata.csv", "validation/metadata.csv"]},
    ),
    "a CSV and JSON lines": (
        {
            "train/metadata.jsonl": rows(("0.jpg", "cat"), ("1.jpg", "dog")),
            "validation/metadata.csv": rows(("2.jpg", "cat")),
        },
        IN_SPLITS,
        SPLITS,
        {"no image": ["train/metadata.jsonl", "validation/metadata.csv"]},
    ),
    "one file, images in folders of splits": (
        {"metadata.csv": rows(*SPLITS["train"], *SPLITS["val"])},
        IN_SPLITS,
        SPLITS,
        {"no image": ["metadata.csv"]},
    ),
    "one file with a column for the split": (
        {
            "metadata.csv": [
                {"file_name": n, "label": c, "split": s}
                for (n, c), s in zip(PAIRS, ("train", "Train", "dev"), strict=True)
            ]
        },
        ABC,
        {"train": PAIRS[:2], "val": PAIRS[2:]},
        {"no image": ["metadata.csv"]},
    ),
    "images in other folders": (
        {"metadata.csv": rows(("images/a/0.jpg", "cat"), ("images/b/1.jpg", "dog"))},
        ["images/a/0.jpg", "images/b/1.jpg"],
        {"train": [("images/a/0.jpg", "cat"), ("images/b/1.jpg", "dog")]},
        {"no image": ["metadata.csv"]},
    ),
    "a test split without labels": (
        {"train/metadata.csv": rows(("0.jpg", "cat"), ("1.jpg", "dog"))},
        ["train/0.jpg", "train/1.jpg", "test/9.jpg"],
        {"train": SPLITS["train"]},
        {"no image": ["train/metadata.csv"], "not listed": ["test/9.jpg"]},
    ),
    "files that no row names": (
        {"metadata.csv": rows(*PAIRS[:2])},
        [*ABC, "more/0.jpg", "README.md", ".git/x.jpg", "__MACOSX/0.jpg"],
        {"train": PAIRS[:2]},
        {
            "no image": ["README.md", "metadata.csv"],
            "hidden": [".git/x.jpg"],
            "left by a system": ["__MACOSX/0.jpg"],
            "not listed": ["2.jpg", "more/0.jpg"],
        },
    ),
    "a row that names a hidden file": (
        {"metadata.csv": rows((".0.jpg", "cat"), ("1.jpg", "dog"))},
        [".0.jpg", "1.jpg"],
        {"train": [(".0.jpg", "cat"), ("1.jpg", "dog")]},
        {"no image": ["metadata.csv"]},
    ),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_what_the_rows_say_is_what_is_read(tmp_path: Path, case: str) -> None:
    tables, images, splits, ignored = UNDERSTOOD[case]
    root = make(tmp_path / "pets", tables, images)
    assert has_metadata(root)
    source = metadata_source(root)
    read = {
        split: [((r.path or Path()).read_bytes().decode(), r.class_name) for r in records]
        for split, records in source.splits.items()
    }
    assert read == splits
    assert {why: sorted(files) for why, files in source.ignored.items()} == ignored
    assert source.name == "pets"
    seen = sum(path.is_file() for path in root.rglob("*"))
    assert sum(map(len, source.ignored.values())) + sum(map(len, source.splits.values())) == seen


NO_METADATA: dict[str, dict[str, Rows | str]] = {
    "none": {},
    "no labels": {"metadata.csv": [{"file_name": "0.jpg", "text": "a cat"}]},
    "no file names": {"metadata.csv": [{"id": "0", "label": "cat"}]},
    "no labels in JSON": {"metadata.jsonl": [{"file_name": "0.jpg", "text": "a cat"}]},
    "an empty file": {"metadata.csv": ""},
    "no table": {"metadata.jsonl": "not json"},
    "in one split of two": {"train/metadata.csv": rows(("0.jpg", "cat")), "val/README": "nothing"},
    "in a folder that is no split": {"images/metadata.csv": rows(("0.jpg", "cat"))},
}


@pytest.mark.parametrize("case", NO_METADATA)
def test_without_file_names_and_labels_it_is_no_such_source(tmp_path: Path, case: str) -> None:
    assert not has_metadata(make(tmp_path, NO_METADATA[case], ABC))


def test_columns_have_the_names_that_are_given(tmp_path: Path) -> None:
    root = make(tmp_path, {"metadata.csv": rows(*PAIRS, column="file", label="breed")}, ABC)
    assert not has_metadata(root)
    assert has_metadata(root, Columns("file", "breed"))
    assert metadata_source(root, Columns("file", "breed"), "named").classes == ("cat", "dog")


REFUSED: dict[str, tuple[dict[str, Rows | str], str]] = {
    "both kinds": (
        {"metadata.csv": rows(*PAIRS), "metadata.jsonl": rows(*PAIRS)},
        "has metadata.csv and metadata.jsonl",
    ),
    "the root and a split": (
        {"metadata.csv": rows(*PAIRS), "train/metadata.csv": rows(("0.jpg", "cat"))},
        "has a metadata.csv, and train has one too",
    ),
    "two folders of one split": (
        {f"{split}/metadata.csv": rows(("0.jpg", "cat")) for split in ("train", "val", "Validation")},
        "of Validation, train, val, two are the same split",
    ),
    "no label": ({"metadata.csv": rows(("0.jpg", "cat"), ("1.jpg", ""))}, r"metadata.csv line 3: no label"),
    "no label in JSON": (
        {"metadata.jsonl": rows(("0.jpg", "cat"), ("1.jpg", None))},
        r"metadata.jsonl line 2: no label",
    ),
    "a label twice in JSON": (
        {"metadata.jsonl": '{"file_name": "0.jpg", "label": "cat"}\n{"label": "a", "label": "b"}\n'},
        "line 2: not a JSON object: the key 'label' is there twice",
    ),
    "a label column twice": ({"metadata.csv": "file_name,label,label\n0.jpg,a,b\n"}, "2 columns are called 'label'"),
    "no rows": ({"metadata.csv": "file_name,label\n"}, "no rows in its metadata"),
    "no such file": ({"metadata.csv": rows(*PAIRS, ("9.jpg", "cat"))}, r"metadata.csv line 5: .*9.jpg: cannot be read"),
    "listed twice": ({"metadata.csv": rows(*PAIRS, ("./0.jpg", "dog"))}, "line 5: 0.jpg is listed in line 2 already"),
    "out of the folder": ({"metadata.csv": rows(("../0.jpg", "cat"))}, r"line 2: ../0.jpg lies outside of"),
    "half in splits": (
        {"metadata.csv": rows(("train/0.jpg", "cat"), ("1.jpg", "cat"))},
        "1.jpg is of no split, but others",
    ),
    "a split against its folder": (
        {"metadata.csv": [{"file_name": "train/0.jpg", "label": "cat", "split": "val"}]},
        "its split is val, but train/0.jpg lies in train",
    ),
    "a class that train lacks": (
        {"train/metadata.csv": rows(("0.jpg", "cat")), "val/metadata.csv": rows(("1.jpg", "Cat"))},
        "class 'Cat' of val is not in train",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_can_mean_two_things_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    tables, message = REFUSED[case]
    folders = ("", "train/", "val/")
    root = make(tmp_path / "pets", tables, [f"{folder}{name}" for folder in folders for name in ABC])
    with pytest.raises(DataError, match=message) as caught:
        metadata_source(root)
    assert "\n" not in str(caught.value)
