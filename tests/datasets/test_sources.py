"""Sources: what is read from folders and archives, what is refused, and the stratified split."""

import io
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from effnet_cluster.datasets import DataError
from effnet_cluster.datasets.decoding.images import EncodedImage, encode_file
from effnet_cluster.datasets.preparing.archives import extract
from effnet_cluster.datasets.preparing.sources import Record, digits_source, folder_source, stratified_split

MakeFolder = Callable[[dict[str, int]], Path]


def test_the_digits_are_scikit_learns() -> None:
    source = digits_source()
    records = source.splits["train"]
    digits = load_digits()
    assert len(records) == 1797
    assert [int(r.class_name) for r in records] == digits.target.tolist()
    assert source.classes == tuple("0123456789")
    for number in (0, 900, 1796):
        image = Image.open(io.BytesIO(records[number].read().data))
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (32, 32))
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX)) / 255 * 16
        assert np.corrcoef(small.ravel(), digits.images[number].ravel())[0, 1] > 0.98


def nothing() -> EncodedImage:
    raise AssertionError("a split reads no images")


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_split_is_stratified_and_a_function_of_names_and_seed(
    counts: list[int], fraction: float, seed: int, shuffle: Random
) -> None:
    records = [Record(f"{c}-{n}", f"class{c}", nothing) for c, count in enumerate(counts) for n in range(count)]
    train, val = stratified_split(records, fraction, seed)
    assert sorted(r.key for r in (*train, *val)) == sorted(r.key for r in records)
    chosen = Counter(r.class_name for r in val)
    for number, count in enumerate(counts):
        of_class = chosen[f"class{number}"]
        assert of_class == 0 if count == 1 else 1 <= of_class <= count - 1
        assert abs(of_class - fraction * count) <= 1
    shuffle.shuffle(records)
    again = stratified_split(records, fraction, seed)
    assert {r.key for r in again[1]} == {r.key for r in val}


def test_another_seed_is_another_split() -> None:
    records = [Record(str(n), "a", nothing) for n in range(100)]
    splits = [frozenset(r.key for r in stratified_split(records, 0.2, seed)[1]) for seed in range(5)]
    assert len(set(splits)) == 5
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(DataError, match="validation fraction"):
            stratified_split(records, fraction, 0)


def test_classes_of_a_split_are_drawn_apart() -> None:
    """Files numbered alike in every class (frames of one scene, say) must not all go to the same side."""
    records = [Record(f"{c}-{n:03d}", f"class{c}", nothing) for c in range(6) for n in range(100)]
    val = stratified_split(records, 0.2, 3)[1]
    chosen = [frozenset(r.key[2:] for r in val if r.class_name == f"class{c}") for c in range(6)]
    assert len(set(chosen)) == 6
    assert max(len(one & other) for one in chosen for other in chosen if one is not other) < 12  # of 20; 4 by chance


def test_a_folder_does_not_depend_on_the_order_in_which_it_is_listed(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"b": 5, "a": 4, "c": 3})
    keys = [r.key for r in folder_source(root).splits["train"]]
    scandir = os.scandir

    @contextmanager
    def turned(path: Path) -> Iterator[list["os.DirEntry[str]"]]:
        with scandir(path) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr(os, "scandir", turned)
    source = folder_source(root)
    assert [r.key for r in source.splits["train"]] == keys
    assert source.classes == ("a", "b", "c")


def test_files_that_are_no_images_are_counted_by_kind(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    for name in (
        "LICENSE.txt",
        "a/notes.md",
        "a/._000.png",
        "a/.DS_Store",
        "a/.thumbs/0.png",
        ".DS_Store",
        "__MACOSX/a/._000.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    source = folder_source(root)
    assert (source.classes, len(source.splits["train"])) == (("a", "b"), 4)
    assert {why: len(files) for why, files in source.ignored.items()} == {
        "hidden": 4,
        "no image": 2,
        "left by a system": 1,
    }


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"train/a": 2, "train/b": 1, "val/a": 3}, {"train": 3, "val": 3}),
        ({"train/a": 2, "valid/a": 3}, {"train": 2, "val": 3}),
        ({"train/a": 2, "validation/a": 3}, {"train": 2, "val": 3}),
        ({"train/a": 2, "test/a": 3}, {"train": 2, "test": 3}),
        ({"train/a": 2, "val/a": 3, "test/a": 1}, {"train": 2, "val": 3, "test": 1}),
        ({"train/a": 5}, {"train": 5}),
    ],
)
def test_splits_of_a_folder_are_taken_as_given(
    make_folder: MakeFolder, folders: dict[str, int], expected: dict[str, int]
) -> None:
    source = folder_source(make_folder(folders))
    assert {split: len(records) for split, records in source.splits.items()} == expected
    given_splits = source.with_validation(0.2, 0).splits
    assert {name: len(given_splits[name]) for name in expected if "val" in expected} == (
        expected if "val" in expected else {}
    )


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"": 3}, "no class folders with images"),
        ({"a": 1, "b": 0}, "b: a class folder without images"),
        ({"train/a": 1, "val/b": 1}, "class 'b' of val is not in train"),
        ({"train/a": 1, "val/a": 1, "valid/a": 1}, "val and valid both look like val"),
    ],
)
def test_a_folder_of_another_shape_is_refused(make_folder: MakeFolder, folders: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        folder_source(make_folder(folders))


def photo(mode: str) -> Image.Image:
    gradient = np.linspace(0, 255, 12 * 16 * 3).reshape(12, 16, 3).astype(np.uint8)
    return Image.fromarray(gradient).convert(mode)


@pytest.mark.parametrize(
    ("name", "mode", "extension"),
    [
        ("x.jpg", "RGB", "jpg"),
        ("x.jpeg", "L", "jpg"),
        ("x.JPG", "CMYK", "jpg"),
        ("x.png", "P", "png"),
        ("x.webp", "RGB", "webp"),
    ],
)
def test_stored_formats_are_kept_byte_for_byte(tmp_path: Path, name: str, mode: str, extension: str) -> None:
    photo(mode).save(tmp_path / name)
    encoded = encode_file(tmp_path / name)
    assert encoded.data == (tmp_path / name).read_bytes()
    assert (encoded.extension, encoded.width, encoded.height) == (extension, 16, 12)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("x.bmp", "RGB"), ("x.gif", "P"), ("x.tif", "RGB"), ("x.tiff", "RGBA"), ("x.ppm", "RGB"), ("x.pgm", "L")],
)
def test_other_formats_become_png_without_loss(tmp_path: Path, name: str, mode: str) -> None:
    photo(mode).save(tmp_path / name)
    encoded = encode_file(tmp_path / name)
    assert encoded.extension == "png"
    with Image.open(tmp_path / name) as before, Image.open(io.BytesIO(encoded.data)) as after:
        assert after.format == "PNG"
        np.testing.assert_array_equal(np.asarray(after.convert("RGBA")), np.asarray(before.convert("RGBA")))


def test_the_first_frame_of_an_animation_is_the_image(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(encode_file(tmp_path / "x.gif").data)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(frames[0]))


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    photo("RGB").save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.jpg")
    assert encode_file(tmp_path / "named.jpg").extension == "png"


def test_sixteen_bit_tiff_stays_sixteen_bit(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(values).save(tmp_path / "x.tif")
    with Image.open(io.BytesIO(encode_file(tmp_path / "x.tif").data)) as image:
        np.testing.assert_array_equal(np.asarray(image), values)


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "float", "postscript"])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("bad.tif" if kind == "float" else "bad.jpg")
    photo("RGB").resize((300, 300)).save(tmp_path / "good.jpg")
    if kind == "float":
        Image.new("F", (4, 4), 0.5).save(path)
    elif kind == "postscript":
        photo("RGB").save(tmp_path / "x.eps")
        (tmp_path / "x.eps").rename(path)
    else:
        good = (tmp_path / "good.jpg").read_bytes()
        path.write_bytes({"text": b"hello", "truncated": good[: len(good) // 2], "empty": b""}[kind])
    with pytest.raises(DataError, match=rf"{path.name}: .*; repair or remove the file") as caught:
        encode_file(path)
    assert "\n" not in str(caught.value)


def member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), "/etc/passwd"
    return info, io.BytesIO(data)


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as tar:
        tar.addfile(*member("ok/a.jpg"))
        tar.addfile(*member("../escaped.jpg"))
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr("../escaped.jpg", b"x")
    for archive in ("evil.tgz", "evil.zip"):
        with pytest.raises(DataError, match=rf"{archive}: unsafe member"):
            extract(tmp_path / archive, target)
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_links_in_an_archive_are_left_out_or_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        tar.addfile(*member("a/link.jpg", b"", tarfile.SYMTYPE))
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match="unsafe member"):
        extract(tmp_path / "links.tar", tmp_path / "target")
    assert not list((tmp_path / "target").rglob("*.jpg"))


@pytest.mark.parametrize("name", ["many.tar", "many.zip"])
def test_an_archive_of_too_many_files_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.preparing.archives.MAX_ARCHIVE_FILES", 3)
    for count in (3, 4):
        if name.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / name, "w") as zipped:
                for number in range(count):
                    zipped.writestr(f"a/{number}.jpg", b"")
        else:
            with tarfile.open(tmp_path / name, "w") as tar:
                for number in range(count):
                    tar.addfile(*member(f"a/{number}.jpg", b""))
        (target := tmp_path / str(count)).mkdir()
        if count == 3:
            extract(tmp_path / name, target)
        else:
            with pytest.raises(DataError, match=rf"{name}: holds more than the 3 files allowed"):
                extract(tmp_path / name, target)
        assert len(list(target.rglob("*.jpg"))) == 3


@pytest.mark.parametrize("name", ["big.tar", "big.zip", "big.tar.gz"])
def test_an_archive_that_unpacks_to_too_much_is_stopped(tmp_path: Path, name: str) -> None:
    data = bytes(100_000)
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("a/1.jpg", data)
            zipped.writestr("a/2.jpg", data)
    else:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.addfile(*member("a/1.jpg", data))
            tar.addfile(*member("a/2.jpg", data))
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match="unpacks to more than the 150,000 bytes"):
        extract(tmp_path / name, tmp_path / "target", max_bytes=150_000)
    assert sum(path.stat().st_size for path in (tmp_path / "target").rglob("*.jpg")) <= 150_000


@pytest.mark.parametrize("name", ["bad.tgz", "bad.zip", "bad.tar"])
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive at all")
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match=rf"{name}: damaged or not an archive"):
        extract(tmp_path / name, tmp_path / "target")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as tar:
        tar.addfile(*member("a/1.jpg", os.urandom(50_000)))
    (tmp_path / "part.tgz").write_bytes((tmp_path / "whole.tgz").read_bytes()[:20_000])
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match=r"part\.tgz: damaged"):
        extract(tmp_path / "part.tgz", tmp_path / "target")
