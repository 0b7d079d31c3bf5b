"""Which shards of a folder are whose: by the names of folders and files where they leave no doubt, else refused."""

import gzip
from pathlib import Path

import pytest

from effnet_cluster.datasets import DataError, index_existing
from effnet_cluster.datasets.preparing.finding import find_shards

from .tars import png, write_tar


def make(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path) -> dict[str, list[str]]:
    return {split: [p.relative_to(root).as_posix() for p in paths] for split, paths in find_shards(root).items()}


UNDERSTOOD: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "named train and validation": (
        ["x-train-000.tar", "x-train-001.tar", "x-validation-000.tar"],
        {"train": ["x-train-000.tar", "x-train-001.tar"], "val": ["x-validation-000.tar"]},
    ),
    "named in capitals": (["TRAIN_0.tar", "Val_0.TAR"], {"train": ["TRAIN_0.tar"], "val": ["Val_0.TAR"]}),
    "named with all three": (
        ["a_train.tar", "a_dev.tar", "a_test.tar"],
        {"train": ["a_train.tar"], "val": ["a_dev.tar"], "test": ["a_test.tar"]},
    ),
    "named train alone": (["x-train-0.tar", "x-train-1.tar"], {"train": ["x-train-0.tar", "x-train-1.tar"]}),
    "train and test, no val": (["train/0.tar", "test/0.tar"], {"train": ["train/0.tar"], "test": ["test/0.tar"]}),
    "folders train and validation": (
        ["train/0.tar", "validation/0.tar"],
        {"train": ["train/0.tar"], "val": ["validation/0.tar"]},
    ),
    "folders Training, Valid and Testing": (
        ["Training/0.tar", "Valid/0.tar", "Testing/0.tar"],
        {"train": ["Training/0.tar"], "val": ["Valid/0.tar"], "test": ["Testing/0.tar"]},
    ),
    "folders with prefixes": (
        ["train_shards/0.tar", "dev_shards/0.tar"],
        {"train": ["train_shards/0.tar"], "val": ["dev_shards/0.tar"]},
    ),
    "folders and names that agree": (
        ["train/x-train-0.tar", "val/x-validation-0.tar"],
        {"train": ["train/x-train-0.tar"], "val": ["val/x-validation-0.tar"]},
    ),
    "folders in a folder": (
        ["all/train/a/0.tar", "all/val/0.tar"],
        {"train": ["all/train/a/0.tar"], "val": ["all/val/0.tar"]},
    ),
    "named in other folders": (["a/x-train.tar", "b/x-val.tar"], {"train": ["a/x-train.tar"], "val": ["b/x-val.tar"]}),
    "no split's name": (["00000.tar", "00001.tar"], {"train": ["00000.tar", "00001.tar"]}),
    "a split's letters within a word": (["latest-0.tar", "strain-0.tar"], {"train": ["latest-0.tar", "strain-0.tar"]}),
    "hidden and other files": (
        ["train/0.tar", "train/._0.tar", ".old/0.tar", "__MACOSX/0.tar", "val/0.tar", "val/stats.json", "README"],
        {"train": ["train/0.tar"], "val": ["val/0.tar"]},
    ),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_names_without_a_doubt_are_understood(tmp_path: Path, case: str) -> None:
    names, expected = UNDERSTOOD[case]
    make(tmp_path, names)
    assert found(tmp_path) == expected


DOUBTFUL: dict[str, tuple[list[str], str]] = {
    "some named, others not": (
        ["x-train-000.tar", "x-train-001.tar", "extra.tar"],
        r"some shards are named after a split, others are not: extra\.tar \(1\), x-train-\*\.tar \(2\)",
    ),
    "flat beside a folder": (["train/0.tar", "1.tar"], r"in folders of splits, others are not: \*\.tar \(1\), train/"),
    "named flat beside a folder": (["train/0.tar", "x-val-1.tar"], "in folders of splits, others are not"),
    "a stranger's folder": (["train/0.tar", "val/0.tar", "extra/0.tar"], r"others are not: extra/\*\.tar"),
    "val and validation": (["train/0.tar", "val/0.tar", "validation/0.tar"], "several folders are of the same split"),
    "train in two cases": (["train/0.tar", "Train/0.tar"], "several folders are of the same split"),
    "a name against its folder": (["train/x-val-0.tar", "val/0.tar"], "tell different splits: train/x-val"),
    "a split in a split": (["train/val/0.tar", "train/1.tar"], "tell different splits"),
    "folders that are no splits": (["a/0.tar", "b/0.tar"], "in folders that are no splits"),
    "flat and a folder that is no split": (["0.tar", "old/0.tar"], "in folders that are no splits"),
    "no train": (["x-val-0.tar", "x-test-0.tar"], "no shard is of train"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_names_that_leave_a_doubt_are_refused_with_what_was_found(tmp_path: Path, case: str) -> None:
    names, message = DOUBTFUL[case]
    make(tmp_path, names)
    with pytest.raises(DataError, match=message) as caught:
        find_shards(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("--train PATTERN, --val PATTERN, --test PATTERN")


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    make(tmp_path, [f"{letter}/{n}.tar" for letter in "abcdefghi" for n in range(3)])
    with pytest.raises(DataError, match=r"f/\*\.tar \(3\) and 3 more; say"):
        find_shards(tmp_path)


def test_links_are_followed_but_not_in_circles_and_no_shard_is_in_two_splits(tmp_path: Path) -> None:
    make(tmp_path, ["elsewhere/0.tar", "root/train/0.tar"])
    root = tmp_path / "root"
    (root / "val").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "up").symlink_to(root)
    assert found(root) == {"train": ["train/0.tar"], "val": ["val/0.tar"]}
    (root / "val" / "1.tar").symlink_to(root / "train" / "0.tar")
    with pytest.raises(DataError, match=r"val/1\.tar: is the same file as .*train/0\.tar, of both train and val"):
        find_shards(root)
    (root / "val" / "1.tar").unlink()
    (root / "val" / "1.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(DataError, match=r"val/1\.tar: cannot be read"):
        find_shards(root)
    with pytest.raises(DataError, match=r"val/1\.tar: cannot be read"):
        find_shards(root, {"train": "train/*.tar", "val": "val/*.tar"})


def test_no_shards_is_an_error_and_compressed_ones_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shards"):
        find_shards(tmp_path)
    make(tmp_path, ["a.tar", "b.tar.gz", "c.tgz"])
    told: list[str] = []
    assert list(find_shards(tmp_path, note=told.append)) == ["train"]
    assert [line.partition(": ")[2] for line in told] == [
        "2 archives that are no plain tar are not read: b.tar.gz, c.tgz"
    ]
    with pytest.raises(DataError, match="gone: cannot be read"):
        find_shards(tmp_path / "gone")


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("x-train-0.tar", "x-train-1.tar", "x-validation-0.tar"), {"train": 8, "val": 4}),
        (("Train/0.tar", "Validation/0.tar", "TEST/0.tar"), {"train": 4, "val": 4, "test": 4}),
        (("train/0.tar", "test/0.tar"), {"train": 2, "test": 4, "val": 2}),  # test is never what is chosen on
    ],
)
def test_the_index_has_each_image_in_its_own_split(
    tmp_path: Path, names: tuple[str, ...], sizes: dict[str, int]
) -> None:
    for number, name in enumerate(names):
        members = {}
        for n in range(4):
            members |= {f"{number}{n}.png": png(number * 10 + n), f"{number}{n}.cls": str(n % 2).encode()}
        write_tar(tmp_path / name, members)
    manifest = index_existing(tmp_path, val_fraction=0.5)
    assert {split: len(of) for split, of in manifest.splits.items()} == sizes
    if "test" in sizes:
        assert {shard.name.partition("/")[0].lower() for shard in manifest.splits["test"].shards} == {"test"}
    elif "val" in sizes:
        assert [shard.name for shard in manifest.splits["val"].shards] == ["x-validation-0.tar"]


def test_a_compressed_shard_that_is_called_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(gzip.compress(write_tar(tmp_path / "x", {"a.png": png(0)}).read_bytes()))
    with pytest.raises(DataError, match="compressed, unpack it"):
        index_existing(tmp_path)
