"""Where a data set is written: links, empty folders that are there already, mounted volumes; and kills on the way."""

import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.datasets import DataError, PreparingProgress, Understanding, open_dataset, parse_splits, prepare
from effnet_cluster.datasets.preparing.archives import extract
from effnet_cluster.datasets.preparing.workfolder import WorkFolder

from .trees import make_tree


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "raw", {"a": 6, "b": 6})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["account.json", "index.npz", "manifest.json", "train", "val"]


@pytest.mark.parametrize("target", ["empty", "missing"])
def test_a_link_to_a_folder_is_followed(raw: Path, tmp_path: Path, target: str) -> None:
    if target == "empty":
        (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    prepare(raw, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "disk") == ["real"]
    assert names(tmp_path / "disk" / "real") == WHOLE
    assert open_dataset(str(tmp_path / "out"), tmp_path).classes == ("a", "b")


def test_an_empty_folder_whose_parent_cannot_be_written_is_enough(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked" / "out" / "lost+found").mkdir(parents=True)
    made: list[Path] = []
    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda self, *a, **k: (made.append(self), mkdir(self, *a, **k))[1])
    prepare(raw, tmp_path / "locked" / "out")
    assert all((tmp_path / "locked" / "out") in path.parents for path in made if not path.exists())
    assert names(tmp_path / "locked") == ["out"]
    assert names(tmp_path / "locked" / "out") == sorted([*WHOLE, "lost+found"])


def test_a_mounted_volume_is_written_to(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "volume"
    out.mkdir()
    script = f"""
import sys
import tarfile
import tracemalloc
from pathlib import Path
from effnet_cluster.datasets import prepare
prepare({str(raw)!r}, Path({str(out)!r}))
print(sorted(path.name for path in Path({str(out)!r}).iterdir()))
"""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs none {out} && exec "$0" -c "$1"'
    done = subprocess.run([*command, mount, sys.executable, script], capture_output=True, text=True, timeout=120)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(WHOLE)


def inodes(folder: Path) -> dict[str, int]:
    return {f"{path.parent.name}/{path.name}": path.stat().st_ino for path in folder.rglob("0*.tar")}


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_kill_while_the_parts_are_moved_is_made_good(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    undisturbed = prepare(raw, tmp_path / "undisturbed", samples_per_shard=2)
    out = tmp_path / "out"
    out.mkdir()
    left = moved
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        nonlocal left
        if self.parent.name == "built":
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out, samples_per_shard=2)
    monkeypatch.setattr(Path, "rename", rename)
    assert not (out / "manifest.json").exists()
    before = inodes(out)
    manifest = prepare(raw, out, samples_per_shard=2)
    assert manifest.digest == undisturbed.digest
    assert names(out) == WHOLE
    assert inodes(out) == before  # nothing was built again


def test_an_interruption_within_an_empty_folder_is_gone_on_with(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def interrupt(progress: PreparingProgress) -> None:
        if progress.stage == "writing" and progress.done >= 4:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"samples_per_shard": 2}
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out, progress=interrupt, **options)
    assert names(out) == [".partial"]
    assert WorkFolder(out / ".partial").finished >= 2
    with pytest.raises(DataError, match="not a prepared dataset"):
        open_dataset(str(out), tmp_path)
    prepare(raw, out, **options)
    assert names(out) == WHOLE


def test_what_a_user_has_put_beside_the_work_is_left_alone(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def interfere(progress: PreparingProgress) -> None:
        (out / "mine.txt").write_text("mine")

    with pytest.raises(DataError, match="out: exists and is not empty"):
        prepare(raw, out, progress=interfere)
    assert (out / "mine.txt").read_text() == "mine"
    assert not (out / "manifest.json").exists()
    with pytest.raises(DataError, match="out: exists and is not empty"):
        prepare(raw, out)


def test_an_output_that_is_a_file_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(DataError, match="out: exists and is not empty"):
        prepare(raw, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "x"


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".tar.bz2", "bztar"),
        (".tbz2", "bztar"),
        (".tar.xz", "xztar"),
        (".txz", "xztar"),
        (".TAR.GZ", "gztar"),
        (".tar.zst", "tar"),
    ],
)
def test_archives_of_every_kind_are_known_by_their_names(raw: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    archive = tmp_path / f"photos{suffix}"
    made = Path(shutil.make_archive(str(tmp_path / "made"), kind, raw))
    if suffix == ".tar.zst":
        archive.write_bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(made.read_bytes()))
    else:
        made.rename(archive)
    manifest = prepare(archive, tmp_path / "out")
    assert (manifest.name, manifest.digest) == ("photos", prepare(raw, tmp_path / "folder").digest)


def test_other_archives_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "photos.7z").write_bytes(b"7z")
    with pytest.raises(DataError, match=r"photos\.7z: neither a folder nor an archive .*; unpack other archives first"):
        prepare(tmp_path / "photos.7z", tmp_path / "out")


def test_the_members_of_an_archive_are_not_kept_in_memory(tmp_path: Path) -> None:
    members = 4_000
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for number in range(members):
            tar.addfile(tarfile.TarInfo(f"a/{number}.png"))
    (tmp_path / "target").mkdir()
    tracemalloc.start()
    extract(tmp_path / "many.tar", tmp_path / "target")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < members * 200  # a header takes 700 bytes


@pytest.mark.parametrize("source", ["list.csv", "torchvision:CIFAR10@x"])
def test_splits_of_folders_are_refused_where_there_are_none(tmp_path: Path, source: str) -> None:
    (tmp_path / "list.csv").write_text("path,label\n")
    meaning = Understanding(splits=parse_splits("train=a"))
    reference = source if ":" in source else tmp_path / source
    with pytest.raises(DataError, match="--splits names folders; here the splits are given"):
        prepare(reference, tmp_path / "out", understanding=meaning)
