"""Shards and manifests that came from outside and are wrong: a clear line each, nothing executed, no hang."""

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effnet_cluster.datasets import DataError, EvalLoader, Manifest, index_existing, open_dataset

pytestmark = [pytest.mark.timeout(20), pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")]
Members = list[tuple[tarfile.TarInfo, bytes]]


class Exploding:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a member was unpickled",))


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (5, 7), value).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


GOOD = (member("g.png", png(1)), member("g.cls", b"1"))


def sample(image: bytes = b"", label: bytes = b"0", name: str = "a.png") -> bytes:
    return tar(*GOOD, member(name, image or png()), member("a.cls", label))


def sized(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A header whose size is the base-256 number `size`, with a right checksum."""
    block = bytearray(member(name, type=kind)[0].tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (size % 2**96).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def headless(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar without its end marker."""
    return tar(*members)[: sum(512 + -(-len(data) // 512) * 512 for _, data in members)]


WHOLE = sample()
BAD_SHARDS: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "damaged or truncated tar"),
    "no tar": (b"not a tar" * 200, "damaged or truncated tar"),
    "no samples": (tar(), "no samples"),
    "only foreign members": (tar(member("a.txt", b"x")), "no samples"),
    "cut in a member": (WHOLE[:2600], "damaged or truncated tar"),
    "cut between members": (headless(*GOOD), "truncated tar .it has no end"),
    "cut in a header": (headless(*GOOD) + b"a.png" + bytes(100), "truncated tar"),
    "damaged header inside": (headless(*GOOD) + b"\xff" * 1024, "damaged tar .no header at byte"),
    "two tars in one file": (tar(*GOOD) + tar(*GOOD), "damaged tar .no header at byte"),
    "compressed under .tar": (gzip.compress(WHOLE), "compressed, unpack it"),
    "endless loop by a size": (headless(*GOOD) + sized("a.png", -512), "leads back"),
    "negative size": (headless(*GOOD) + sized("a.png", -(2**40)), "damaged"),
    "impossible size": (headless(*GOOD) + sized("a.png", 2**80), "sample a: an image of 1,208,925"),
    "impossible pax header": (headless(*GOOD) + sized("a.png", 2**62, b"x") + bytes(1024), "damaged or truncated tar"),
    "impossible long name": (headless(*GOOD) + sized("a", 2**62, b"L") + bytes(1024), "damaged or truncated tar"),
    "missing label": (tar(*GOOD, member("a.png", png())), "sample a has 1 images and 0 labels"),
    "missing image": (tar(*GOOD, member("a.cls", b"0")), "sample a has 0 images and 1 labels"),
    "only a pickle": (tar(*GOOD, member("a.pkl", b"x"), member("a.cls", b"0")), "sample a has 0 images"),
    "two images": (tar(*GOOD, member("a.jpg", png()), member("a.png", png())), "sample a has 2 images"),
    "duplicate key": (tar(*GOOD, *GOOD), "sample g has 2 images and 2 labels"),
    "label in words": (sample(label=b"cat"), "sample a: its .cls is not a label: 'cat' is not a class number"),
    "negative label": (sample(label=b"-1"), "sample a: its .cls is not a label"),
    "label nan": (sample(label=b"nan"), "sample a: its .cls is not a label"),
    "label not ascii": (sample(label="²".encode()), "sample a: its .cls is not a label"),
    "label not utf-8": (sample(label=b"\xff\xfe"), "sample a: its .cls is not a label"),
    "empty label": (sample(label=b" "), "sample a: its .cls is not a label"),
    "huge label": (sample(label=b"999999999"), "sample a of train has label 999999999, but there are 1,000,000"),
    "long label": (sample(label=b"0" * 5000), "sample a: its .cls is not a label: 5,000 bytes"),
    "empty image": (tar(*GOOD, member("a.png"), member("a.cls", b"0")), "sample a: an image of 0 bytes"),
    "image above the cap": (sample(bytes(70_000)), "sample a: an image of 70,000 bytes"),
    "no image": (sample(b"GIF89a no image", b"1"), "sample a: not an image"),
    "bomb": (sample(bomb(30_000, 30_000), b"1"), "sample a: 30000x30000 pixels, more than"),
    "symbolic link": (tar(*GOOD, member("a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "sample a: .*a link"),
    "hard link": (tar(*GOOD, member("a.png", type=tarfile.LNKTYPE, linkname="g.png")), "sample a: .* is a link"),
    "device": (tar(*GOOD, member("a.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)), "sample a: .* device"),
    "pipe": (tar(*GOOD, member("a.cls", type=tarfile.FIFOTYPE)), "sample a: .* device"),
    "way out": (tar(*GOOD, member("../../a.png", png())), r"unsafe member '../../a.png'"),
    "absolute name": (tar(*GOOD, member("/etc/a.png", png())), "unsafe member '/etc/a.png'"),
    "new line in a name": (tar(*GOOD, member("a\nb.png", png())), r"unsafe member 'a\\nb.png'"),
    "endless name": (tar(*GOOD, member("a" * 5000 + ".png", png())), "a name of more than 1024 bytes"),
}


@pytest.mark.parametrize("kind", BAD_SHARDS)
def test_a_bad_shard_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.preparing.members.MAX_IMAGE_BYTES", 60_000)
    data, message = BAD_SHARDS[kind]
    (tmp_path / "s.tar").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        index_existing(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    if "sample" not in message or "of train" not in message:
        assert "s.tar" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_unusual_but_sound_shards_are_read(tmp_path: Path, layout: int) -> None:
    long = "d" * 90 + "/" + "k" * 60
    poison = pickle.dumps(Exploding())
    files = [member(f"{long}.png", png(1)), member(f"{long}.cls", b"1"), member("f\udcff.png", png(2))]
    files += [member("f\udcff.cls", b"0"), member("dir.png", type=tarfile.DIRTYPE)]
    files += [member(f"{long}.{kind}", poison) for kind in ("pyd", "pkl", "pickle", "pth")]
    files += [member("h.png", png(3)), member("h.cls", b"1"), member("i.png", png(3)), member("i.cls", b"0")]
    (tmp_path / "s.tar").write_bytes(tar(*files, kind=layout))
    manifest = index_existing(tmp_path, val_fraction=0.5)
    keys = {split.key(i) for split in manifest.splits.values() for i in range(len(split))}
    assert keys == {long, "f\N{REPLACEMENT CHARACTER}", "h", "i"}
    assert len(list(EvalLoader(manifest, image_size=4, resize=4, batch_size=2))) == 1


def sparse_tar(folder: Path) -> bytes:
    """A GNU sparse member, put together by hand: a map of one piece and the size that it pretends to have."""
    block = bytearray(member("a.png", type=tarfile.GNUTYPE_SPARSE)[0].tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (0, 0)
    block[483:495] = b"%011o\0" % 2**30
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return headless(*GOOD) + bytes(block) + bytes(1024)


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(sparse_tar(tmp_path))
    with pytest.raises(DataError, match=r"sample a: its \.png is a link, device or sparse file"):
        index_existing(tmp_path)


Edit = Callable[[dict[str, Any]], None]


def in_shard(field: str, value: Any) -> Edit:
    return lambda document: document["splits"]["train"]["shards"][0].__setitem__(field, value)


BAD_MANIFESTS: dict[str, tuple[Edit, str]] = {
    "way out": (in_shard("name", "../../etc/passwd"), "outside the folder"),
    "absolute": (in_shard("name", "/etc/passwd"), "outside the folder"),
    "pipe": (in_shard("name", "pipe:touch owned"), "no plain path"),
    "url": (in_shard("name", "http://elsewhere/x.tar"), "no plain path"),
    "query": (in_shard("name", "train/0.tar?x=1"), "no plain path"),
    "backslash": (in_shard("name", "..\\x.tar"), "no plain path"),
    "new line": (in_shard("name", "a\nb.tar"), "no plain path"),
    "empty name": (in_shard("name", ""), "no plain path"),
    "negative bytes": (in_shard("bytes", -1), "out of range"),
    "huge count": (in_shard("samples", 10**18), "out of range"),
    "true for a count": (in_shard("samples", True), "where a int belongs"),
    "nan for a count": (in_shard("samples", float("nan")), "where a int belongs"),
    "no sha256": (in_shard("sha256", "../../x"), "sha256"),
    "nan for the size": (lambda document: document.update(image_size=float("inf")), "where a int belongs"),
    "text for a flag": (lambda document: document.update(mirror_safe="no"), "where a bool belongs"),
    "number for a class": (lambda document: document.update(classes=[1, 2]), "where a str belongs"),
    "fewer classes": (lambda document: document.update(classes=["china"]), "a label of train has no class"),
    "newer version": (lambda document: document.update(format=99), "format 99, this program reads 1 to 2"),
    "no splits": (lambda document: document.pop("splits"), "no entry 'splits'"),
    "other digest": (lambda document: document.update(digest="0" * 64), "do not match their digest"),
}


@pytest.fixture
def copy(photo_shards: Manifest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photo_shards.root, tmp_path / "copy"))


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused(copy: Path, kind: str) -> None:
    edit, message = BAD_MANIFESTS[kind]
    document = json.loads((copy / "manifest.json").read_text())
    edit(document)
    (copy / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as caught:
        Manifest.load(copy)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\ud800"])
def test_json_made_to_break_the_parser_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        Manifest.load(copy)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offset", 2**63 - 1, "outside its shard"),  # offset + size wraps around to a small number
        ("offset", -1, "outside its shard"),
        ("size", 2**40, "bytes allowed"),
        ("size", -1, "bytes allowed"),
        ("label", -1, "has no class"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(copy: Path, column: str, value: int, message: str) -> None:
    with np.load(copy / "index.npz") as stored:
        arrays = dict(stored)
    arrays[f"train.{column}"][3] = value
    np.savez(copy / "index.npz", **arrays)
    with pytest.raises(DataError, match=message):
        Manifest.load(copy)
    np.savez_compressed(copy / "index.npz", **arrays)  # might unpack to anything
    with pytest.raises(DataError, match=r"index\.npz: damaged"):
        Manifest.load(copy)


def test_a_pipe_is_no_dataset(tmp_path: Path) -> None:
    for ref in (f"pipe:touch {tmp_path}/owned", f" pipe:touch {tmp_path}/owned"):
        with pytest.raises(DataError, match="not an address that can be read"):
            open_dataset(ref, tmp_path / "cache")
    assert not list(tmp_path.iterdir())
