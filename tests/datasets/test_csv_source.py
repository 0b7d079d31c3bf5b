"""CSV sources: what the rows say is what is prepared, and every mistake is told with its line."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from effnet_cluster.datasets import Columns, DataError, Manifest, prepare
from effnet_cluster.datasets.preparing.csv_source import csv_source


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
    manifest = prepare(path, tmp_path / "out", columns=Columns("file", "breed"), samples_per_shard=3)
    assert manifest.digest == photo_shards.digest


def test_classes_that_are_numbers_are_in_their_order_and_test_without_val_is_val(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*/*.jpg"))[:12]
    rows = [[str(file), str(n), "train"] for n, file in enumerate(files[:11])] + [[str(files[11]), "10", "test"]]
    source = csv_source(write(tmp_path / "list.csv", [["path", "label", "split"], *rows]))
    assert source.classes == tuple(str(n) for n in range(11))
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 11, "val": 1}


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
        ([["path", "label", "split"], ["a.jpg", "x", ""]], "line 2: split ''; it must be train, val"),
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
