"""Every file that is seen ends as a sample, ignored for a reason, or damaged; and the sums are right."""

import io
import json
import os
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_cluster.datasets import DataError, Manifest, prepare
from effnet_cluster.datasets.preparing.account import Account
from effnet_cluster.datasets.preparing.sources import folder_source

from .trees import make_tree, picture


class Odd(NamedTuple):
    """A kind of file in a class folder, and what is to become of it: a sample, "damaged", or ignored for a reason."""

    name: str
    content: bytes
    fate: str = "sample"


JPEG = picture(1000, "jpg")
KINDS = [
    Odd("x.png", b"", "sample"),
    Odd("X.PNG", b"", "sample"),
    Odd("scan.TIF", picture(1001, "tif"), "sample"),
    Odd("without extension", picture(1002), "sample"),
    Odd("strange.dat", picture(1003, "jpg"), "sample"),
    Odd("new.avif", picture(1004, "avif"), "sample"),
    Odd("deep/er/y.jpg", picture(1005, "jpg"), "sample"),
    Odd("[brackets] {1}.jpg", picture(1006, "jpg"), "sample"),
    Odd("\udcc4\udce3.jpg", picture(1007, "jpg"), "sample"),  # no UTF-8
    Odd("notes.txt", b"hello", "no image"),
    Odd("movie.mp4", b"\0\0\0\x18ftypmp42", "no image"),
    Odd("empty", b"", "no image"),
    Odd(".DS_Store", b"x", "hidden"),
    Odd("._x.jpg", JPEG, "hidden"),
    Odd(".ipynb_checkpoints/x.jpg", JPEG, "hidden"),
    Odd("@eaDir/x.jpg/SYNO.jpg", JPEG, "left by a system"),
    Odd("__MACOSX/._x.jpg", JPEG, "left by a system"),
    Odd("Thumbs.db", b"x", "left by a system"),
    Odd("cut.jpg", JPEG[: len(JPEG) // 2], "damaged"),
    Odd("text.jpg", b"hello", "damaged"),
    Odd("empty.png", b"", "damaged"),
]
CLASSES = ["rose", "[a]", "café", "10", "9", "b c"]


def build(
    root: Path, classes: list[str], odd: list[tuple[int, Odd, int]], links: list[int], split: bool
) -> Counter[str]:
    """Make a tree; returns how many files are to end how, with "sample: SPLIT/CLASS" for samples of given splits."""
    fates: Counter[str] = Counter()
    splits = ["Train", "Validation"] if split else [""]
    number = 0
    for name in splits:
        for class_name in classes:
            folder = root / name / class_name
            folder.mkdir(parents=True)
            for plain in range(3):
                (folder / f"plain{plain}.png").write_bytes(picture(number))
                number += 1
            fates["sample", name, class_name] += 3  # type: ignore[index]
    for position, (where, kind, times) in enumerate(odd):
        name, class_name = splits[where % len(splits)], classes[where % len(classes)]
        for time in range(times):
            path = root / name / class_name / f"sub{position}.{time}" / kind.name
            path.parent.mkdir(parents=True)
            path.write_bytes(kind.content or (picture(2000 + position * 10 + time) if kind.fate == "sample" else b""))
            fates[("sample", name, class_name) if kind.fate == "sample" else kind.fate] += 1  # type: ignore[index]
    for position, link in enumerate(links):
        name, class_name = splits[position % len(splits)], classes[position % len(classes)]
        folder = root / name / class_name
        if link == 0:
            os.link(folder / "plain0.png", folder / f"hard{position}.png")
        elif link == 1:
            (folder / f"soft{position}.png").symlink_to("plain1.png")
        elif link == 2:
            (folder / f"broken{position}").symlink_to("nowhere")
            fates["a broken link"] += 1
            continue
        elif link == 3:
            (folder / f"broken{position}.jpg").symlink_to("nowhere.jpg")
            fates["damaged"] += 1
            continue
        elif link == 4:
            (folder / f"up{position}").symlink_to("..")
            fates["a link to a folder above"] += 1
            continue
        fates["sample", name, class_name] += 1  # type: ignore[index]
    return fates


def ended(account: Account, manifest: Manifest) -> Counter[str]:
    found: Counter[Any] = Counter({why: len(files) for why, files in account.ignored.items()})
    found["damaged"] = len(account.damaged)
    for split in manifest.splits.values():
        found.update(("sample", manifest.classes[label]) for label in split.label.tolist())
    return +found


def expected(fates: Counter[Any]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for fate, count in fates.items():
        found[("sample", fate[2]) if isinstance(fate, tuple) else fate] += count
    return found


def prepare_what_is_whole(
    source: Path, out: Path, accounts: list[Account], split: bool = False, **options: Any
) -> Manifest:
    """Prepare. Where all images that were chosen for validation are damaged, it is refused: then try another tree.

    A tree with splits of its own has whole images in each.
    """
    try:
        return prepare(source, out, skip_damaged=True, accounted=accounts.append, **options)
    except DataError as error:
        if split or "split val has no image left that is not damaged" not in str(error):
            raise
        reject()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    classes=st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True),
    odd=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(KINDS), st.integers(1, 2)), max_size=8),
    links=st.lists(st.integers(0, 4), max_size=4),
    split=st.booleans(),
)
def test_every_file_of_a_random_tree_ends_in_exactly_one_place(
    classes: list[str], odd: list[tuple[int, Odd, int]], links: list[int], split: bool
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder) / "raw"
        fates = build(root, classes, odd, links, split)
        accounts: list[Account] = []
        manifest = prepare_what_is_whole(root, Path(folder) / "out", accounts, split)
        assert ended(accounts[0], manifest) == expected(fates)
        assert accounts[0].seen == fates.total()
        if split:
            of_train = sum(count for fate, count in fates.items() if isinstance(fate, tuple) and fate[1] == "Train")
            assert accounts[0].samples["train"] == of_train == len(manifest.splits["train"])
        # The report names each file, and each of these is there.
        report = json.loads((Path(folder) / "out" / "account.json").read_text("utf-8"))
        assert report["seen"] == accounts[0].seen
        for name in [*(file for files in accounts[0].ignored.values() for file in files), *accounts[0].damaged]:
            assert "\\x" in name or os.path.lexists(root / name)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    odd=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(KINDS), st.integers(1, 2)), max_size=6),
    links=st.lists(st.integers(0, 1), max_size=4),
    suffix=st.sampled_from([".tar", ".tgz", ".tar.bz2", ".tar.xz", ".zip"]),
)
def test_an_archive_ends_as_its_folder_does(odd: list[tuple[int, Odd, int]], links: list[int], suffix: str) -> None:
    odd = [one for one in odd if "\udcc4" not in one[1].name]
    with TemporaryDirectory() as folder:
        root = Path(folder) / "raw"
        build(root, ["a", "b"], odd, links, False)
        archive = Path(folder) / f"raw{suffix}"
        if suffix == ".zip":
            with zipfile.ZipFile(archive, "w") as zipped:
                for path in sorted(root.rglob("*")):
                    zipped.write(path, path.relative_to(folder))
        else:
            with tarfile.open(archive, {".tgz": "w:gz", ".tar": "w"}.get(suffix, f"w:{suffix[5:]}")) as tar:  # type: ignore[call-overload]
                tar.add(root, "raw")
        accounts: list[Account] = []
        of_folder, of_archive = (
            prepare_what_is_whole(source, Path(folder) / f"out-{n}", accounts, name="x")
            for n, source in enumerate((root, archive))
        )
        assert of_folder.digest == of_archive.digest
        named = [{why: sorted(Path(file).name for file in files) for why, files in a.ignored.items()} for a in accounts]
        assert named[0] == named[1]
        assert (accounts[0].seen, dict(accounts[0].samples)) == (accounts[1].seen, dict(accounts[1].samples))


def test_links_of_an_archive_are_its_files_once_more(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a/1.png", "b/1.png", "a/2.png", *(f"{c}/own{n}.png" for c in "ab" for n in range(3))):
            info = tarfile.TarInfo(name)
            data = picture(sum(map(ord, name)) + 7 * ord(name[0]))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind, to in (
            ("b/hard.png", tarfile.LNKTYPE, "a/1.png"),
            ("b/soft.png", tarfile.SYMTYPE, "../a/2.png"),
            ("b/chain.png", tarfile.SYMTYPE, "later.png"),
            ("b/later.png", tarfile.SYMTYPE, "hard.png"),
            ("b/loop.png", tarfile.SYMTYPE, "loop.png"),
            ("c", tarfile.SYMTYPE, "a"),
            ("b/gone.png", tarfile.SYMTYPE, "nowhere.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            tar.addfile(info)
    accounts: list[Account] = []
    prepare(tmp_path / "x.tar", tmp_path / "out", accounted=accounts.append)
    assert sum(accounts[0].samples.values()) == 13
    assert {why: sorted(files) for why, files in accounts[0].ignored.items()} == {
        "a link in the archive to no file of it": ["b/gone.png", "b/loop.png", "c"],
    }


@pytest.mark.parametrize(("encoding", "flag"), [("gbk", None), ("gbk", "gbk"), ("utf-8", None), ("cp932", "cp932")])
def test_names_in_a_zip_are_decoded_or_refused(tmp_path: Path, encoding: str, flag: str | None) -> None:
    text = "猫狗" if encoding != "cp932" else "ねこ"
    raw = text.encode(encoding)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for number in range(4):
            name = f"{'N' * len(raw) if number % 2 else 'dog'}/{number}.png"
            zipped.writestr(name, picture(number))
    # Python writes UTF-8 with its flag; others write their own bytes without.
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes().replace(b"N" * len(raw), raw))
    from effnet_cluster.datasets import Understanding

    arguments: dict[str, Any] = {"understanding": Understanding(name_encoding=flag)}
    if encoding == "gbk" and flag is None:
        with pytest.raises(DataError, match="is not UTF-8; say what its names are in, such as --name-encoding gbk"):
            prepare(tmp_path / "x.zip", tmp_path / "out", **arguments)
    else:
        assert set(prepare(tmp_path / "x.zip", tmp_path / "out", **arguments).classes) == {"dog", text}


def test_a_folder_that_cannot_be_read_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(tmp_path / "raw", {"a": 2, "a/inner": 2, "b": 2, ".hidden/deep": 1})
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    forbidden = "inner"
    with pytest.raises(DataError, match="a/inner: cannot be read: Permission denied; its images would be missing"):
        folder_source(root)
    forbidden = "deep"  # nobody wants what is hidden
    assert len(folder_source(root).splits["train"]) == 6


def test_linked_folders_are_walked_once_each_and_loops_end(tmp_path: Path) -> None:
    store = make_tree(tmp_path / "store", {"rose": 3, "tulip": 2})
    root = tmp_path / "raw"
    root.mkdir()
    for name in ("rose", "tulip"):
        (root / name).symlink_to(store / name)
    (store / "rose" / "again").symlink_to(store / "rose")
    source = folder_source(root)
    assert Counter(record.class_name for record in source.splits["train"]) == {"rose": 3, "tulip": 2}
    assert dict(source.ignored) == {"a link to a folder above": ("rose/again",)}


def test_all_damaged_images_are_found_in_one_pass(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"a": 20, "b": 20})
    for number in range(0, 20, 5):
        for class_name in "ab":
            path = root / class_name / f"{number}.png"
            path.write_bytes(path.read_bytes()[:60])
    notes: list[str] = []
    with pytest.raises(
        DataError, match=r"raw: 8 of 40 images cannot be used, all of them listed in .*; repair or rem"
    ) as e:
        prepare(root, tmp_path / "out", samples_per_shard=7, note=notes.append)
    assert "--on-corrupt skip" in str(e.value)
    listing = Path(str(e.value).partition("listed in ")[2].partition(";")[0])
    bad = {f"{root}/{class_name}/{number}.png" for class_name in "ab" for number in range(0, 20, 5)}
    assert {line.partition(": ")[0] for line in listing.read_text().splitlines()} == bad
    assert not (tmp_path / "out").exists()
    accounts: list[Account] = []
    options: dict[str, Any] = {"samples_per_shard": 7, "skip_damaged": True, "accounted": accounts.append}
    skipped = prepare(root, tmp_path / "out", **options)
    assert {f"{root}/{name}" for name in accounts[0].damaged} == bad
    assert sum(len(split) for split in skipped.splits.values()) == 32
    for path in bad:
        Path(path).write_bytes(picture(zlib.crc32(path.encode()) % 10**6))
    repaired = prepare(root, tmp_path / "repaired", samples_per_shard=7)
    assert sum(len(split) for split in repaired.splits.values()) == 40
    # Where nothing is damaged it makes no difference what would be done about it.
    assert prepare(root, tmp_path / "again", samples_per_shard=7, skip_damaged=True).digest == repaired.digest


def test_a_class_or_split_that_is_all_damage_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"train/a": 3, "train/b": 3, "val/a": 2})
    for path in (root / "train" / "b").iterdir():
        path.write_bytes(b"bad")
    with pytest.raises(DataError, match="class 'b' has no image left that is not damaged"):
        prepare(root, tmp_path / "out", skip_damaged=True)
    for path in (root / "val" / "a").iterdir():
        path.write_bytes(b"bad")
    with pytest.raises(DataError, match="split val has no image left that is not damaged"):
        prepare(root, tmp_path / "out", skip_damaged=True)


def test_equal_images_go_to_the_same_side_and_are_reported(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"a": 10, "b": 10})
    for number in range(8):  # of each class eight pictures once more, under another name
        for class_name in "ab":
            origin = root / class_name / f"{number}.png"
            (root / class_name / f"copy{number}.png").write_bytes(origin.read_bytes())
    (root / "b" / "shared.png").write_bytes((root / "a" / "9.png").read_bytes())
    reports: list[Any] = []
    manifest = prepare(root, tmp_path / "out", val_fraction=0.4, report=reports.extend)
    (found,) = reports
    assert found.across_splits == ()
    assert len(found.across_classes) == 1
    assert len(found.within_class) == 16
    assert len(manifest.splits["val"]) >= 10


def test_pixel_equal_images_go_to_the_same_side_where_pixels_are_compared(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "raw", {"a": 8, "b": 8})
    for path in sorted(root.glob("*/*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), lossless=True)
    reports: list[Any] = []
    for pixels in (False, True):
        prepare(root, tmp_path / str(pixels), val_fraction=0.5, pixel_duplicates=pixels, report=reports.append)
    assert reports[0][0].across_splits == ()  # other bytes
    assert [one.across_splits for one in reports[1]] == [(), ()]
    assert [len(one.within_class) for one in reports[1]] == [0, 16]


def test_heic_is_an_image_where_its_plugin_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    root = make_tree(tmp_path / "raw", {"a": 2, "b": 2})
    ramp = Image.linear_gradient("L").convert("RGB").resize((64, 48))
    heif.from_pillow(ramp).save(root / "a" / "phone.heic")
    heif.from_pillow(ramp).save(root / "b" / "without extension", format="HEIF")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(DataError, match="2 of 6 images cannot be used"):
            prepare(root, tmp_path / "out")
        assert "HEIC needs a plugin: pip install" in (tmp_path / ".out.partial" / "damaged.txt").read_text()
    manifest = prepare(root, tmp_path / "other")
    assert sum(len(split) for split in manifest.splits.values()) == 6


def test_a_large_picture_is_made_smaller_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effnet_cluster.datasets import Reencoding

    monkeypatch.setattr("effnet_cluster.datasets.decoding.images.MAX_IMAGE_PIXELS", 5_000)
    root = make_tree(tmp_path / "raw", {"a": 2, "b": 2})
    ramp = Image.linear_gradient("L").convert("RGB")
    ramp.save(root / "a" / "large.jpg", quality=95)
    ramp.save(root / "b" / "large.png")
    with pytest.raises(DataError, match="2 of 6 images cannot be used"):
        prepare(root, tmp_path / "out")
    reasons = (tmp_path / ".out.partial" / "damaged.txt").read_text()
    assert "256x256 pixels, more than the 5,000 allowed; make it smaller or remove the file (--max-side" in reasons
    manifest = prepare(root, tmp_path / "out", reencoding=Reencoding(64))
    assert sum(len(split) for split in manifest.splits.values()) == 6
    assert not (tmp_path / ".out.partial").exists()
