"""The members of a shard: each is part of a sample, or ignored and named, or the shard is refused."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from effnet_cluster.datasets import Account, DataError, index_existing
from effnet_cluster.datasets.preparing.members import LabelMember, read_shard

from .tars import png, write_tar

CLS = LabelMember("cls")
IMAGES = ("jpg", "jpeg", "png", "webp")


def content(names: list[str]) -> dict[str, bytes]:
    """Every image another one; every label its place in the tar."""
    return {n: png(i) if n.rpartition(".")[2].lower() in IMAGES else str(i).encode() for i, n in enumerate(names)}


# Members → the image and the label of each sample by its key, and the ignored ones by kind.
UNDERSTOOD: dict[str, tuple[list[str], dict[str, tuple[str, str]], dict[str, list[str]]]] = {
    "no dots": (["a.jpg", "a.cls"], {"a": ("a.jpg", "a.cls")}, {}),
    "dots in the key": (
        ["img.0.jpg", "img.0.cls", "img.1.jpg", "img.1.cls"],
        {"img.0": ("img.0.jpg", "img.0.cls"), "img.1": ("img.1.jpg", "img.1.cls")},
        {},
    ),
    "a date": (["2019.01.05.PNG", "2019.01.05.cls"], {"2019.01.05": ("2019.01.05.PNG", "2019.01.05.cls")}, {}),
    "with and without dots": (
        ["a.jpg", "a.cls", "b.1.jpg", "b.1.cls", "c.jpg", "c.cls"],
        {"a": ("a.jpg", "a.cls"), "b.1": ("b.1.jpg", "b.1.cls"), "c": ("c.jpg", "c.cls")},
        {},
    ),
    "a key that begins like another": (
        ["a.jpg", "a.cls", "a.b.jpg", "a.b.cls"],
        {"a": ("a.jpg", "a.cls"), "a.b": ("a.b.jpg", "a.b.cls")},
        {},
    ),
    "a mask beside the image": (
        ["a.seg.png", "a.jpg", "a.cls"],
        {"a": ("a.jpg", "a.cls")},
        {"extra .png": ["a.seg.png"]},
    ),
    "a mask beside an image with dots": (
        ["a.1.jpg", "a.1.cls", "a.1.seg.png"],
        {"a.1": ("a.1.jpg", "a.1.cls")},
        {"extra .png": ["a.1.seg.png"]},
    ),
    "a second label": (["a.jpg", "a.cls", "a.old.cls"], {"a": ("a.jpg", "a.cls")}, {"extra .cls": ["a.old.cls"]}),
    "dots in folders": (["v1.0/a.jpg", "v1.0/a.cls"], {"v1.0/a": ("v1.0/a.jpg", "v1.0/a.cls")}, {}),
    "an extra in another folder is none": (
        ["x/a.jpg", "x/a.cls", "y/a.1.jpg", "y/a.1.cls"],
        {"x/a": ("x/a.jpg", "x/a.cls"), "y/a.1": ("y/a.1.jpg", "y/a.1.cls")},
        {},
    ),
    "other kinds": (
        ["a.jpg", "a.cls", "a.txt", "a.JSON", "b.txt", "README", "a.pyd", "x.verylongextension"],
        {"a": ("a.jpg", "a.cls")},
        {
            ".txt": ["a.txt", "b.txt"],
            ".json": ["a.JSON"],
            "other": ["README", "x.verylongextension"],
            ".pyd": ["a.pyd"],
        },
    ),
    "what systems leave": (
        ["a.jpg", "a.cls", "._a.jpg", ".DS_Store", "__MACOSX/a.jpg", "@eaDir/a.jpg/T.jpg", ".ipynb_checkpoints/a.jpg"],
        {"a": ("a.jpg", "a.cls")},
        {
            "hidden": ["._a.jpg", ".DS_Store", ".ipynb_checkpoints/a.jpg"],
            "left by a system": ["__MACOSX/a.jpg", "@eaDir/a.jpg/T.jpg"],
        },
    ),
    "a leading dot": (["./a.jpg", "./a.cls"], {"./a": ("./a.jpg", "./a.cls")}, {}),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_every_member_is_part_of_a_sample_or_ignored(tmp_path: Path, case: str) -> None:
    names, samples, ignored = UNDERSTOOD[case]
    members = content(names)
    path = write_tar(tmp_path / "s.tar", members)
    found = read_shard(path, CLS)
    data = path.read_bytes()
    assert {row.key: (data[row.offset :][: row.size], row.label) for row in found.rows} == {
        key: (members[image], members[label].decode()) for key, (image, label) in samples.items()
    }
    assert found.ignored == ignored
    assert [row.offset for row in found.rows] == sorted(row.offset for row in found.rows)


REFUSED: dict[str, tuple[list[str], str]] = {
    "a lone image": (
        ["a.jpg", "a.cls", "b.jpg"],
        r"sample b has 1 images and 0 labels instead of one of each \(b.jpg\)",
    ),
    "a lone image with dots": (["a.jpg", "a.cls", "b.1.jpg"], r"sample b.1 has 1 images and 0 labels .* \(b.1.jpg\)"),
    "a lone label with dots": (["a.jpg", "a.cls", "b.1.cls"], r"sample b.1 has 0 images and 1 labels"),
    "two images with dots": (["b.1.jpg", "b.1.png", "b.1.cls"], r"sample b.1 has 2 images and 1 labels"),
    "two images beside a sample": (["b.jpg", "b.cls", "b.1.jpg", "b.1.png", "b.1.cls"], "sample b.1 has 2 images"),
    "an image in dots, its label without": (["b.rgb.jpg", "b.cls"], "sample b has 0 images and 1 labels"),
    "a whole sample twice": (["a.jpg", "a.cls", "a.JPG", "a.CLS"], "sample a has 2 images and 2 labels"),
    "a name that is no UTF-8": (["a\udcff.jpg"], r"sample a\\xff has 1 images .* \(a\\xff.jpg\)"),
    "an extra of another folder": (["x/a.jpg", "x/a.cls", "y/a.1.jpg"], "sample y/a.1 has 1 images and 0 labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_image_or_label_of_no_sample_is_refused_by_name(tmp_path: Path, case: str) -> None:
    names, message = REFUSED[case]
    path = write_tar(tmp_path / "s.tar", content(names))
    with pytest.raises(DataError, match=message) as caught:
        read_shard(path, CLS)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value).encode().decode()


def test_a_label_with_dots_and_one_in_json_are_found_by_dotted_keys_too(tmp_path: Path) -> None:
    members = {"a.1.jpg": png(0), "a.1.class.txt": b"cat", "b.jpg": png(1), "b.class.txt": b"dog"}
    found = read_shard(write_tar(tmp_path / "s.tar", members), LabelMember.parse("class.txt"))
    assert [(row.key, row.label) for row in found.rows] == [("a.1", "cat"), ("b", "dog")]
    members = {"a.1.jpg": png(0), "a.1.json": b'{"l": 7}', "a.1.boxes.json": b"[1, 2]"}  # extras are not read
    found = read_shard(write_tar(tmp_path / "t.tar", members), LabelMember.parse("json:l"))
    assert [(row.key, row.label) for row in found.rows] == [("a.1", "7")]
    assert found.ignored == {"extra .json": ["a.1.boxes.json"]}


def test_an_extra_may_be_a_link_or_empty_but_a_sample_may_not(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in (("a.jpg", png(0)), ("a.cls", b"0"), ("a.none.png", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("a.seg.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert read_shard(tmp_path / "s.tar", CLS).ignored == {"extra .png": ["a.none.png", "a.seg.png"]}
    with tarfile.open(tmp_path / "s.tar", "a") as tar:
        info = tarfile.TarInfo("a.seg.cls")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
    with pytest.raises(DataError, match=r"sample a\.seg: its \.png is a link"):
        read_shard(tmp_path / "s.tar", CLS)


NAMES = st.builds(
    "{}{}.{}".format,
    st.sampled_from(["", "d/", "d.e/", "__MACOSX/", "./"]),
    st.sampled_from(["a", "b", "a.1", "a.2", "a.1.x", ".h", "c"]),
    st.sampled_from(["jpg", "png", "PNG", "cls", "txt", "seg.png"]),
)


@given(names=st.lists(NAMES, max_size=12, unique=True))
@example(["a.jpg", "a.cls", "a.1.jpg", "a.1.cls", "a.seg.png", "c.txt"])
def test_the_sums_are_right(names: list[str]) -> None:
    """Of each tar that is taken: two members per sample, and each other one named once."""
    with TemporaryDirectory() as folder:
        members = content(names)
        path = write_tar(Path(folder) / "s.tar", members)
        try:
            found = read_shard(path, CLS)
        except DataError:
            return
        with tarfile.open(path) as tar:
            at = {member.offset_data: member.name for member in tar if member.size}
    used = []
    for row in found.rows:
        image = at[row.offset]
        assert image.rpartition(".")[0] == row.key
        used += [image, next(n for n, data in members.items() if data == row.label.encode())]
    assert sorted(used + [name for names in found.ignored.values() for name in names]) == sorted(names)
    lone = [key for key, count in Counter(n.rpartition(".")[0] for n in used).items() if count != 2]
    assert lone == []


def test_the_account_sums_up_and_is_written_beside_the_manifest(tmp_path: Path) -> None:
    for split, shift in (("train", 0), ("val", 50)):
        names = [f"p.{n}.{ext}" for n in range(4) for ext in ("png", "cls", "txt")] + ["p.0.seg.png", ".DS_Store"]
        members = {n: png(shift + i) if n.endswith("png") else b"0" for i, n in enumerate(names)}
        write_tar(tmp_path / split / "0.tar", members)
    accounts: list[Account] = []
    index_existing(tmp_path, accounted=accounts.append)
    (account,) = accounts
    counted = 0
    for path in tmp_path.glob("*/*.tar"):
        with tarfile.open(path) as tar:
            counted += len(tar.getnames())
    assert account.seen == counted == 28
    assert account.line() == (
        "28 members seen: 8 samples (4 train, 4 val), 12 ignored (8 .txt, 2 extra .png, 2 hidden)"
    )
    written = json.loads((tmp_path / "account.json").read_text())
    assert written["seen"] == 28
    assert written["ignored"]["extra .png"] == ["train/0.tar: p.0.seg.png", "val/0.tar: p.0.seg.png"]
    assert not (tmp_path / "train" / "account.json").exists()
