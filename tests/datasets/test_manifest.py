"""The manifest: what it refuses, what its digest covers, and how fast a large one loads."""

import dataclasses
import hashlib
import json
import pickle
import shutil
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.datasets import DataError, Manifest, Shard, Split, verify_shards
from effnet_cluster.datasets.manifest import Remote


@pytest.fixture
def copy(photo_shards: Manifest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photo_shards.root, tmp_path / "copy"))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_saved_and_loaded_is_the_same(photo_shards: Manifest, copy: Path) -> None:
    loaded = Manifest.load(copy)
    assert loaded.digest == photo_shards.digest
    assert (loaded.name, loaded.classes, loaded.mirror_safe) == ("photos", ("china", "flower"), True)
    assert 80 <= loaded.image_size <= 120
    for name, split in photo_shards.splits.items():
        assert loaded.splits[name].shards == split.shards
        for column in ("shard", "offset", "size", "label", "keys"):
            np.testing.assert_array_equal(getattr(loaded.splits[name], column), getattr(split, column))


def test_a_manifest_cannot_be_changed(photo_shards: Manifest) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        photo_shards.name = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        photo_shards.splits["train"].label[0] = 1


def test_the_digest_covers_the_data_and_not_its_name_or_place(photo_shards: Manifest) -> None:
    elsewhere = dataclasses.replace(photo_shards, root=Path("/elsewhere"), name="other", remote=Remote("s3://x", 1))
    assert elsewhere.digest == photo_shards.digest
    assert dataclasses.replace(photo_shards, mirror_safe=False).digest != photo_shards.digest  # it switches flips
    train = photo_shards.splits["train"]
    relabelled = dataclasses.replace(train, label=1 - train.label)
    reread = dataclasses.replace(
        train, shards=(dataclasses.replace(train.shards[0], sha256="0" * 64), *train.shards[1:])
    )
    others = [
        dataclasses.replace(photo_shards, classes=("flower", "china")),
        dataclasses.replace(photo_shards, splits={**photo_shards.splits, "train": relabelled}),
        dataclasses.replace(photo_shards, splits={**photo_shards.splits, "train": reread}),
        dataclasses.replace(photo_shards, splits={"train": train}),
    ]
    assert len({photo_shards.digest, *(other.digest for other in others)}) == 5


def another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case np.ndarray():
            return np.concatenate([value[1:], value[:1]]) if len(set(value.tolist())) > 1 else value + 1
        case tuple() if value and isinstance(value[0], str):
            return value[::-1]
    raise AssertionError(f"no other value for {value!r}")


def test_every_field_but_name_and_place_changes_the_digest(photo_shards: Manifest) -> None:
    train = photo_shards.splits["train"]
    first, *rest = train.shards
    changed = {}
    for field in dataclasses.fields(Shard):
        shard = dataclasses.replace(first, **{field.name: another(getattr(first, field.name))})
        changed[f"shard.{field.name}"] = dataclasses.replace(train, shards=(shard, *rest))
    for field in dataclasses.fields(Split):
        if field.name == "shards":
            changed["split.shards"] = dataclasses.replace(train, shards=(*rest, first))
        else:
            column = another(np.array(getattr(train, field.name)))
            changed[f"split.{field.name}"] = dataclasses.replace(train, **{field.name: column})
    digests = {"": photo_shards.digest}
    for name, split in changed.items():
        digests[name] = dataclasses.replace(photo_shards, splits={**photo_shards.splits, "train": split}).digest
    for field in dataclasses.fields(Manifest):
        if field.name not in ("root", "name", "remote", "splits"):
            other = dataclasses.replace(photo_shards, **{field.name: another(getattr(photo_shards, field.name))})
            digests[field.name] = other.digest
    swapped = {"train": photo_shards.splits["val"], "val": train}
    digests["splits"] = dataclasses.replace(photo_shards, splits=swapped).digest
    assert len(digests) == 1 + 4 + 6 + 3 + 1
    assert len(set(digests.values())) == len(digests)


def test_manifests_of_the_first_format_are_read_and_get_the_digest_of_today(copy: Path, photo_shards: Manifest) -> None:
    edit(copy, format=1, digest=photo_shards._digest(1))
    assert Manifest.load(copy).digest == photo_shards.digest != photo_shards._digest(1)
    edit(copy, format=1, digest=photo_shards.digest)
    with pytest.raises(DataError, match="do not match their digest"):
        Manifest.load(copy)


def test_an_edited_flag_or_size_is_refused(copy: Path) -> None:
    for change in ({"mirror_safe": False}, {"image_size": 32}):
        before = (copy / "manifest.json").read_text()
        edit(copy, **change)
        with pytest.raises(DataError, match="do not match their digest"):
            Manifest.load(copy)
        (copy / "manifest.json").write_text(before)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), most=st.integers(1, 40))
def test_the_default_block_is_as_many_shards_as_never_exceed_the_bytes(sizes: list[int], most: int) -> None:
    shards = tuple(Shard(f"{number}.tar", size, "", 0) for number, size in enumerate(sizes))
    nothing = np.empty(0, np.int64)
    split = Split(shards, *(nothing.astype(kind) for kind in ("<i4", "<i8", "<i8", "<i4", "S1")))
    manifest = Manifest(Path("/x"), "x", ("a",), 8, True, {"train": split})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effnet_cluster.datasets.manifest.SHUFFLE_BYTES", most)
        block = manifest.default_shuffle_block
        assert dataclasses.replace(manifest, remote=Remote("s3://x", 1)).default_shuffle_block == block
    sums = [max(sum(chosen) for chosen in combinations(sizes, count)) for count in range(1, len(sizes) + 1)]
    assert block == max([count for count, total in enumerate(sums, start=1) if total <= most], default=1)


def test_a_folder_without_manifest_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json; make one with: effnet-cluster data prepare"):
        Manifest.load(tmp_path)


def test_another_version_is_refused(copy: Path) -> None:
    for version in (3, 0, "2", None, [], 10**999):
        edit(copy, format=version)
        with pytest.raises(
            DataError, match=r"manifest\.json: format .{1,40}, this program reads 1 to 2; prepare .* again$"
        ):
            Manifest.load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "splits": 3}', "\x00"])
def test_a_damaged_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        Manifest.load(copy)


@pytest.mark.parametrize(
    ("field", "value"), [("samples", "x"), ("samples", 4), ("bytes", None), ("name", 3), ("extra", 1)]
)
def test_a_manifest_with_a_wrong_shard_entry_is_refused(copy: Path, field: str, value: Any) -> None:
    document = json.loads((copy / "manifest.json").read_text())
    document["splits"]["train"]["shards"][0][field] = value
    edit(copy, splits=document["splits"])
    with pytest.raises(DataError, match=r"(manifest\.json|index\.npz): damaged"):
        Manifest.load(copy)


def test_an_edited_manifest_is_refused(copy: Path) -> None:
    edit(copy, classes=["flower", "china"])
    with pytest.raises(DataError, match="do not match their digest"):
        Manifest.load(copy)


def test_a_missing_or_truncated_index_is_refused(copy: Path) -> None:
    index = copy / "index.npz"
    data = index.read_bytes()
    index.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"index\.npz: damaged"):
        Manifest.load(copy)
    index.unlink()
    with pytest.raises(DataError, match=r"index\.npz: damaged"):
        Manifest.load(copy)


def rewrite_index(folder: Path, **changes: Any) -> None:
    with np.load(folder / "index.npz") as arrays:
        stored = dict(arrays)
    np.savez(folder / "index.npz", **{**stored, **{name.replace("__", "."): value for name, value in changes.items()}})


def test_a_changed_index_is_refused(copy: Path, photo_shards: Manifest) -> None:
    label = photo_shards.splits["train"].label
    rewrite_index(copy, train__label=1 - label)
    with pytest.raises(DataError, match="do not match their digest"):
        Manifest.load(copy)
    rewrite_index(copy, train__label=label + 1)
    with pytest.raises(DataError, match="a label of train has no class"):
        Manifest.load(copy)
    rewrite_index(copy, train__label=label, train__offset=photo_shards.splits["train"].offset + 10**9)
    with pytest.raises(DataError, match="lies outside its shard"):
        Manifest.load(copy)


class Exploding:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the index was unpickled",))


def test_nothing_in_the_index_is_unpickled(copy: Path) -> None:
    rewrite_index(copy, train__keys=np.array([Exploding()], dtype=object))
    with pytest.raises(DataError, match=r"index\.npz: damaged"):
        Manifest.load(copy)


def test_shards_that_differ_from_the_manifest_are_found(copy: Path) -> None:
    manifest = Manifest.load(copy)
    assert list(verify_shards(manifest)) == []
    shard = copy / manifest.splits["val"].shards[0].name
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    (bad,) = verify_shards(manifest)
    assert bad.name == manifest.splits["val"].shards[0].name
    assert (
        bad.problem
        == f"sha256 {hashlib.sha256(data).hexdigest()}, the manifest says {manifest.splits['val'].shards[0].sha256}"
    )
    shard.write_bytes(data[:-512])
    (bad,) = verify_shards(manifest)
    assert bad.problem == f"{len(data) - 512:,} bytes, the manifest says {len(data):,}"
    shard.unlink()
    seen: list[tuple[int, int]] = []
    (bad,) = verify_shards(manifest, lambda done, total: seen.append((done, total)))
    assert bad.problem == "cannot be read: No such file or directory"
    every = [shard.bytes for split in manifest.splits.values() for shard in split.shards]
    assert seen == [(sum(every[: n + 1]), sum(every)) for n in range(len(every))]


def test_a_shard_outside_the_folder_is_refused(copy: Path) -> None:
    document = json.loads((copy / "manifest.json").read_text())
    document["splits"]["train"]["shards"][0]["name"] = "../secret.tar"
    edit(copy, splits=document["splits"])
    with pytest.raises(DataError, match="outside the folder"):
        Manifest.load(copy)


def test_a_manifest_travels_to_another_process(photo_shards: Manifest) -> None:
    assert pickle.loads(pickle.dumps(photo_shards)).digest == photo_shards.digest


def test_imagenet_sized_manifest_loads_in_under_a_second(tmp_path: Path) -> None:
    samples, shards = 1_281_167, 1252
    counts = np.full(shards, samples // shards)
    counts[: samples - counts.sum()] += 1
    within = np.arange(samples) - np.repeat(np.cumsum(counts) - counts, counts)
    split = Split(
        shards=tuple(Shard(f"train/{n:06d}.tar", 2**28, f"{n:064x}", int(count)) for n, count in enumerate(counts)),
        shard=np.repeat(np.arange(shards), counts).astype(np.int32),
        offset=within * 110_592,
        size=np.full(samples, 110_000, dtype=np.int64),
        label=(np.arange(samples) % 1000).astype(np.int32),
        keys=np.array([b"n%08d_%d" % (n % 1000, n) for n in range(samples)]),
    )
    Manifest(tmp_path, "imagenet", tuple(map(str, range(1000))), 375, True, {"train": split}).save()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        assert len(Manifest.load(tmp_path).splits["train"]) == samples
        taken.append(time.perf_counter() - start)
    assert min(taken) < 1.0
