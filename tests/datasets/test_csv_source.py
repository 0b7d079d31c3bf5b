"""CSV sources: what the rows say is what is prepared, and every mistake is told with its line."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.datasets import Columns, DataError, Manifest, Understanding, prepare
from effnet_cluster.datasets.preparing.csv_source import csv_source, is_csv


def write(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def stored(manifest: Manifest) -> set[tuple[str, str, bytes]]:
    return {
        (name, manifest.classes[split.label[row]], data[split.offset[row] :][: split.size[row]])
        for name, split in manifest.splits.items()
        for row in range(len(split))
        for data in [(manifest.root / split.shards[split.shard[row]].name).read_bytes()]
    }


def test_what_the_rows_say_is_what_is_prepared(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*.jpg"))
    splits = ["train", "Validation", "test", "train"]
    rows = [[str(file), f'a "{file.parent.name}", photo', splits[n % 4]] for n, file in enumerate(files)]
    manifest = prepare(write(tmp_path / "list.csv", [["path", "label", "split"], *rows]), tmp_path / "out")
    named = {"train": "train", "Validation": "val", "test": "test"}
    assert stored(manifest) == {(named[split], label, Path(path).read_bytes()) for path, label, split in rows}
    assert (manifest.name, manifest.classes) == ("list", ('a "china", photo', 'a "flower", photo'))


def test_paths_are_relative_to_the_file_and_columns_have_any_name(
    photos: Path, photo_shards: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "photos").symlink_to(photos)
    files = sorted(photos.glob("*/*.jpg"))
    rows = [["7", f"photos/{f.parent.name}/{f.name}", f.parent.name] for f in files]
    path = write(tmp_path / "list.csv", [["id", "file", "breed"], *rows])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Excel writes it
    manifest = prepare(
        path, tmp_path / "out", understanding=Understanding(columns=Columns("file", "breed")), samples_per_shard=3
    )
    assert manifest.digest == photo_shards.digest


def test_classes_that_are_numbers_are_in_their_order_and_test_stays_test(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*.jpg"))[:12]
    rows = [[str(file), str(n), "train"] for n, file in enumerate(files[:11])] + [[str(files[11]), "10", "test"]]
    source = csv_source(write(tmp_path / "list.csv", [["path", "label", "split"], *rows]))
    assert source.classes == tuple(str(n) for n in range(11))
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 11, "test": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["file", "label"], ["a.jpg", "x"]], "list.csv: no column 'path'; it has file, label"),
        ([["path", "class"], ["a.jpg", "x"]], "list.csv: no column 'label'; it has path, class"),
        ([], "list.csv: no column 'path'; it has none"),
        ([["path", "label"]], "list.csv: no rows"),
        ([["path", "label"], ["a.jpg", "x"], ["b.jpg"]], "list.csv line 3: no label"),
        ([["path", "label"], ["", "x"]], "list.csv line 2: no path"),
        ([["path", "label"], ["a.jpg", "x"], ["gone.jpg", "x"]], "list.csv line 3: .*gone.jpg: cannot be read"),
        ([["path", "label"], ["a.jpg", "x"], ["a.jpg", "y"]], "line 3: a.jpg is listed in line 2 already"),
        ([["path", "label", "split"], ["a.jpg", "x", "holdout"]], "line 2: split 'holdout'; it must be train, val"),
        ([["path", "label", "split"], ["a.jpg", "x", "val"]], "no row of the split train"),
        ([["path", "label", "split"], ["a.jpg", "x", "train"], ["b.jpg", "y", "val"]], "'y' of val is not in train"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, rows: list[list[str]], message: str) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message) as caught:
        csv_source(write(tmp_path / "list.csv", rows))
    assert "\n" not in str(caught.value)


def test_what_is_no_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(DataError, match=re.escape("list.csv: not a CSV file in UTF-8")):
        prepare(tmp_path / "list.csv", tmp_path / "out")
    (tmp_path / "list.csv").write_bytes(b'path,label\n"a.jpg,x\n')
    with pytest.raises(DataError, match="not a CSV file"):
        csv_source(tmp_path / "list.csv")
    assert not (tmp_path / "out").exists()


IMAGES = ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg")
ROWS = [["path", "label", "split"], *([name, name[:3], "train" if "0" in name else "val"] for name in IMAGES)]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Files called cat/0.jpg, ...; a source reads none of them."""
    for name in IMAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def text(rows: Sequence[Sequence[str]], **arguments: Any) -> str:
    file = io.StringIO()
    csv.writer(file, **arguments).writerows(rows)
    return file.getvalue()


def with_cells(change: Callable[[str], str], column: int) -> list[list[str]]:
    return [ROWS[0], *([change(cell) if n == column else cell for n, cell in enumerate(row)] for row in ROWS[1:])]


# The same four rows, as other programs, systems and people write them.
WRITTEN: dict[str, bytes] = {
    "commas": text(ROWS).encode(),
    "semicolons": text(ROWS, delimiter=";").encode(),
    "tabs": text(ROWS, delimiter="\t").encode(),
    "bars": text(ROWS, delimiter="|").encode(),
    "semicolons, all in quotes": text(ROWS, delimiter=";", quoting=csv.QUOTE_ALL).encode(),
    "Unix lines": text(ROWS, lineterminator="\n").encode(),
    "old Mac lines": text(ROWS, lineterminator="\r").encode(),
    "a mark": text(ROWS).encode("utf-8-sig"),
    "UTF-16": text(ROWS).encode("utf-16"),
    "UTF-16 and tabs, as Excel's Unicode text": b"\xff\xfe" + text(ROWS, delimiter="\t").encode("utf-16-le"),
    "UTF-16, the other way round": b"\xfe\xff" + text(ROWS, delimiter=";").encode("utf-16-be"),
    "UTF-32": text(ROWS).encode("utf-32"),
    "spaces": b"path, label, split\n" + b"\n".join(" , ".join(row).encode() for row in ROWS[1:]),
    "blank lines": b"\r\n" + text(ROWS).encode().replace(b"\r\n", b"\r\n\r\n,,\r\n"),
    "a separator at the end": text([[*row, ""] for row in ROWS]).encode(),
    "a new line within quotes": text([[*row, "two\r\nlines; and, more"] for row in ROWS]).encode(),
    "other columns twice": text([[*row, "x", "x"] for row in ROWS]).encode(),
    "splits in other words": text(with_cells(lambda s: {"train": "Training", "val": " VALIDATION "}[s], 2)).encode(),
    "blank for train": text(with_cells(lambda s: {"train": "", "val": "dev"}[s], 2)).encode(),
    "the split left out at the end": text([row if row[2] != "train" else row[:2] for row in ROWS]).encode(),
    "Windows paths": text(with_cells(lambda s: s.replace("/", "\\"), 0)).encode(),
    "Windows paths from here": text(with_cells(lambda s: ".\\" + s.replace("/", "\\"), 0)).encode(),
    "paths from here": text(with_cells(lambda s: f"./{s}", 0)).encode(),
    "paths by a detour": text(with_cells(lambda s: f"dog/../{s}", 0)).encode(),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_the_same_rows_are_read_however_they_are_written(pets: Path, case: str) -> None:
    path = pets / ("list.tsv" if "tabs" in case else "list.csv")
    path.write_bytes(WRITTEN[case])
    assert is_csv(path)
    source = csv_source(path)
    assert source.classes == ("cat", "dog")
    read = {
        split: [(r.class_name, (r.path or Path()).read_bytes().decode()) for r in records]
        for split, records in source.splits.items()
    }
    assert read == {
        "train": [("cat", "cat/0.jpg"), ("dog", "dog/0.jpg")],
        "val": [("cat", "cat/1.jpg"), ("dog", "dog/1.jpg")],
    }


def test_blank_splits_are_counted_where_others_are_not(pets: Path) -> None:
    told: list[str] = []
    path = write(pets / "list.csv", with_cells(lambda s: {"train": " ", "val": "val"}[s], 2))
    csv_source(path, note=told.append)
    assert told == [f"{path}: 2 of 4 rows name no split: they are train"]
    csv_source(write(path, with_cells(lambda s: "", 2)), note=told.append)
    csv_source(write(path, [row[:2] for row in ROWS]), note=told.append)
    assert len(told) == 1


def test_test_is_never_validated_on(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*.jpg"))
    rows = [[str(f), f.parent.name, "Testing" if f.stem in ("04", "05") else "training"] for f in files]
    manifest = prepare(write(tmp_path / "list.csv", [["path", "label", "split"], *rows]), tmp_path / "out")
    tested = {(label, data) for split, label, data in stored(manifest) if split == "test"}
    assert tested == {(f.parent.name, f.read_bytes()) for f in files if f.stem in ("04", "05")}
    assert {split: len(of) for split, of in manifest.splits.items()} == {"train": 12, "val": 4, "test": 4}


def test_class_names_have_one_spelling_and_a_natural_order(pets: Path) -> None:
    labels = ["Ko\u0308ln 10", "K\u00f6ln 10", "K\u00f6ln 9", "11"]
    source = csv_source(write(pets / "list.csv", [["path", "label"], *map(list, zip(IMAGES, labels, strict=True))]))
    assert source.classes == ("11", "K\u00f6ln 9", "K\u00f6ln 10")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["path", "label", "label"], ["cat/0.jpg", "x", "y"]], "2 columns are called 'label'; rename all but one"),
        ([["path", "label", "path"], ["cat/0.jpg", "x", "y"]], "2 columns are called 'path'"),
        ([["split", "path", "label", "split"], ["", "cat/0.jpg", "x", ""]], "2 columns are called 'split'"),
        ([["path", "label", " label "], ["cat/0.jpg", "x", "y"]], "2 columns are called 'label'"),
        ([ROWS[0], ROWS[1], ["dog/../cat/0.jpg", "dog", ""]], "line 3: 0.jpg is listed in line 2 already; keep one"),
        ([ROWS[0], ROWS[1], ["./cat//0.jpg", "cat", ""]], "line 3: 0.jpg is listed in line 2"),
        ([ROWS[0], ROWS[1], ["cat\\0.jpg", "cat", ""]], "line 3: 0.jpg is listed in line 2"),
        ([ROWS[0], ROWS[1], ["felines/0.jpg", "cat", "val"]], "line 3: 0.jpg is listed in line 2"),
        ([ROWS[0], ["C:\\data\\0.jpg", "cat", ""]], r"line 2: C:\\data\\0.jpg: a path on a Windows drive; make it rel"),
        ([ROWS[0], ["d:/data/0.jpg", "cat", ""]], "line 2: d:/data/0.jpg: a path on a Windows drive"),
        ([ROWS[0], ["\\\\nas\\x\\0.jpg", "cat", ""]], "a path on a Windows drive"),
        ([ROWS[0], ["cat/0.jpg", "cat\ndog", ""]], r"line 3: 'cat\\ndog' holds a line break"),
        ([ROWS[0], ["cat/\n0.jpg", "cat", ""]], "holds a line break"),
        (
            [["path", "label"], ["cat/0.jpg", "a", "cat"]],
            "line 2: 3 fields, but the header has 2; put fields with a ','",
        ),
        ([ROWS[0], ["cat/0.jpg", "cat", "train-val"]], "split 'train-val'; it must be train, val or test"),
    ],
)
def test_rows_that_can_mean_two_things_are_refused(pets: Path, rows: list[list[str]], message: str) -> None:
    (pets / "felines").symlink_to(pets / "cat")
    with pytest.raises(DataError, match=message) as caught:
        csv_source(write(pets / "list.csv", rows))
    assert "\n" not in str(caught.value)


def test_links_to_files_may_be_listed_beside_them(pets: Path) -> None:
    (pets / "cat" / "2.jpg").symlink_to(pets / "cat" / "0.jpg")
    (pets / "cat" / "3.jpg").hardlink_to(pets / "cat" / "0.jpg")
    (pets / "cat" / "a\\b.jpg").write_bytes(b"with a backslash in its name")
    rows = [[f"cat/{name}.jpg", "cat"] for name in ("0", "2", "3", "a\\b")]
    assert len(csv_source(write(pets / "list.csv", [["path", "label"], *rows])).splits["train"]) == 4
