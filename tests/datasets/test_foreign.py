"""Shards of other programs, indexed in place: webdataset's own writer, img2dataset's layout, tar(1)."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from effnet_cluster.datasets import DataError, EvalLoader, Manifest, index_existing, open_dataset, verify_shards

NAMES = ("daisy", "rose", "tulip")


def picture(folder: Path, value: int) -> bytes:
    path = folder / f"picture{value}.jpg"
    Image.new("RGB", (12, 10), (value, 255 - value, value)).save(path)
    data = path.read_bytes()
    path.unlink()
    return data


def write(folder: Path, kind: str, count: int = 30) -> None:
    """`count` samples in three shards, by the program that `kind` names; sample n has class n % 3."""
    per_shard = count // 3
    if kind == "tar":
        files = folder / "files"
        files.mkdir()
        for number in range(count):
            (files / f"p{number:03d}.jpg").write_bytes(picture(folder, number))
            (files / f"p{number:03d}.cls").write_text(f"{number % 3}\n")
        for shard in range(3):
            names = [
                f"./p{n:03d}.{e}" for n in range(shard * per_shard, (shard + 1) * per_shard) for e in ("cls", "jpg")
            ]
            subprocess.run(["tar", "-cf", str(folder / f"{shard}.tar"), "-C", str(files), *names], check=True)
        shutil.rmtree(files)
        return
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=per_shard, verbose=0) as writer:
        for number in range(count):
            entry: dict[str, Any] = {"__key__": f"{number:08d}", "jpg": picture(folder, number)}
            if kind == "webdataset":
                entry |= {"cls": number % 3, "note.pyd": b"never read"}
            else:  # img2dataset: a caption, and what is known of the picture
                label = number % 3 if kind == "json:label" else NAMES[number % 3]
                entry |= {"txt": f"a flower, {number}", "json": {"label": label, "class": label, "status": "success"}}
            writer.write(entry)
    if kind != "webdataset":
        (folder / "00000_stats.json").write_text("{}")


@pytest.mark.parametrize("kind", ["webdataset", "tar", "json:label", "json:class"])
def test_shards_of_others_become_a_dataset_in_place(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    seen: list[tuple[int, int]] = []
    manifest = index_existing(
        tmp_path, label=kind if ":" in kind else "cls", progress=lambda done, total: seen.append((done, total))
    )
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in tmp_path.iterdir()} - {path.name for path in before} == {
        "account.json",
        "index.npz",
        "manifest.json",
    }
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert manifest.classes == (NAMES if kind == "json:class" else ("0", "1", "2"))
    assert open_dataset(str(tmp_path), tmp_path / "cache").digest == manifest.digest
    assert list(verify_shards(manifest)) == []
    # What plain webdataset sees, each sample in exactly one of the splits.
    plain = {}
    for sample in webdataset.WebDataset(sorted(str(path) for path in tmp_path.glob("*.tar")), shardshuffle=False):
        label = int(sample["cls"]) if "cls" in sample else json.loads(sample["json"])["class"]
        plain[sample["__key__"]] = (sample["jpg"], NAMES.index(label) if isinstance(label, str) else label)
    found: dict[str, tuple[bytes, int]] = {}
    for split in manifest.splits.values():
        for row in range(len(split)):
            data = (tmp_path / split.shards[split.shard[row]].name).read_bytes()
            assert split.key(row) not in found
            found[split.key(row)] = data[split.offset[row] :][: split.size[row]], int(split.label[row])
    assert found == plain
    assert len(plain) == 30
    assert np.bincount(manifest.splits["val"].label).tolist() == [2, 2, 2]  # a fifth of each class
    batches = list(EvalLoader(manifest, split="val", image_size=8, resize=8, batch_size=4))
    assert sum(int(batch.mask.sum()) for batch in batches) == 6
    assert torch.cat([batch.labels[batch.mask] for batch in batches]).tolist() == manifest.splits["val"].label.tolist()


def test_the_split_is_a_function_of_the_seed(tmp_path: Path) -> None:
    write(tmp_path, "webdataset")

    def val_keys(seed: int) -> list[bytes]:
        (tmp_path / "manifest.json").unlink(missing_ok=True)
        keys: list[bytes] = index_existing(tmp_path, seed=seed).splits["val"].keys.tolist()
        return keys

    assert val_keys(0) == val_keys(0)
    assert val_keys(0) != val_keys(1)


def test_splits_come_from_patterns_or_folders(tmp_path: Path) -> None:
    write(tmp_path, "webdataset")
    manifest = index_existing(tmp_path, splits={"train": "0000[01].tar", "val": "00002.tar"}, classes=NAMES)
    assert {name: len(split) for name, split in manifest.splits.items()} == {"train": 20, "val": 10}
    assert manifest.classes == NAMES
    with pytest.raises(DataError, match=r"has a manifest\.json already; remove it"):
        index_existing(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "00002.tar").unlink()
    for name, shard in (("train", "00000"), ("val", "00001")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{shard}.tar").rename(tmp_path / name / f"{shard}.tar")
    assert {name: len(split) for name, split in index_existing(tmp_path).splits.items()} == {"train": 10, "val": 10}


def test_a_class_name_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "json:class")
    with pytest.raises(DataError, match="has label tulip, but there are 2 classes without it"):
        index_existing(tmp_path, label="json:class", classes=("daisy", "rose"))
    with pytest.raises(DataError, match=r"00000000: its \.json is not a label: no field 'kind'"):
        index_existing(tmp_path, label="json:kind")
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"c": NaN}', '{"c": true}', '{"c": 1.5}', '{"c": -1}', "[" * 100_000])
def test_json_that_holds_no_label_is_refused(tmp_path: Path, text: str) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in (("a.jpg", picture(tmp_path, 1)), ("a.json", text.encode())):
            (tmp_path / name).write_bytes(data)
            tar.add(tmp_path / name, name)
    with pytest.raises(DataError, match=r"s\.tar: sample a: its \.json is not a label"):
        index_existing(tmp_path, label="json:c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"splits": {"train": "*.tar", "val": "00002.tar"}}, r"00002\.tar: matches the patterns of both train and val"),
        ({"splits": {"val": "*.tar"}}, "no pattern for the split 'train'"),
        ({"splits": {"train": "no-*.tar"}}, "no shards match 'no-"),
        ({"splits": {"train": "../*.tar"}}, "must stay below"),
        ({"splits": {"train": "/etc/*"}}, "must stay below"),
        ({"label": "jpg"}, "give the extension of the label's member"),
        ({"label": "json"}, "json:FIELD"),
        ({"label": "cls:x"}, "json:FIELD"),
        ({"val_fraction": 0.0}, "validation fraction"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    write(tmp_path, "webdataset")
    with pytest.raises(DataError, match=message):
        index_existing(tmp_path, **arguments)


def test_plain_webdataset_reads_ours(photo_shards: Manifest) -> None:
    split = photo_shards.splits["train"]
    urls = [str(photo_shards.root / shard.name) for shard in split.shards]
    read = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert read == [split.key(row) for row in range(len(split))]
