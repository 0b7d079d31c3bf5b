"""The same bytes whatever builds them, and whatever happened on the way."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from effnet_cluster.datasets import (
    DataError,
    Manifest,
    PreparingProgress,
    Reencoding,
    prepare,
    processes,
    verify_shards,
)

PER_SHARD = 2  # the 20 photos in ten shards


def shuffled(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[Any, None, None]:
    """A mapper whose results come in another order than its tasks."""
    results = [function(task) for task in tasks]
    Random(0).shuffle(results)
    yield from results


def test_one_two_and_four_workers_give_the_same_digest_and_bytes(photos: Path, tmp_path: Path) -> None:
    made: list[Manifest] = []
    for name, mapper in {"1": processes(1), "2": processes(2), "4": processes(4), "shuffled": shuffled}.items():
        seen: list[PreparingProgress] = []
        options: dict[str, Any] = {"mapper": mapper, "reencoding": Reencoding(90), "progress": seen.append}
        made.append(prepare(photos, tmp_path / name, samples_per_shard=PER_SHARD, **options))
        assert [step.done for step in seen] == list(range(2, 21, 2))
        assert list(verify_shards(made[-1])) == []
    assert {manifest.digest for manifest in made} == {made[0].digest}
    assert {manifest.image_size for manifest in made} == {made[0].image_size}
    with pytest.raises(DataError, match="at least 1 worker"):
        processes(0)


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        f"{path.parent.name}/{path.name}": (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.glob("*/[0-9]*.tar")
    }


KILLED = """
import sys, time
from pathlib import Path
from effnet_cluster.datasets import prepare, processes

def slow(step):
    print(step.done, flush=True)
    time.sleep(0.3)

if __name__ == "__main__":
    prepare(sys.argv[1], Path(sys.argv[2]), samples_per_shard=2, progress=slow, mapper=processes(int(sys.argv[3])))
"""


def begin(source: Path, out: Path, script: Path, workers: int) -> "subprocess.Popen[str]":
    script.write_text(KILLED)
    return subprocess.Popen(
        [sys.executable, str(script), str(source), str(out), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_kill_finished_shards_are_not_written_again(photos: Path, tmp_path: Path, workers: int) -> None:
    undisturbed = prepare(photos, tmp_path / "undisturbed", samples_per_shard=PER_SHARD)
    process = begin(photos, tmp_path / "out", tmp_path / "script.py", workers)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_running, children)))  # no worker outlives its parent
    work = tmp_path / ".out.partial"
    before = identities(work / "built")
    assert 3 <= len(before) <= 10
    assert not (tmp_path / "out").exists()
    (work / "built" / "train" / ".000009.tar.killed").write_bytes(b"half")  # what a killed write leaves
    notes: list[str] = []
    manifest = prepare(photos, tmp_path / "out", samples_per_shard=PER_SHARD, note=notes.append)
    after = identities(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert manifest.digest == undisturbed.digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "script.py", "undisturbed"]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == sorted(p.name for p in undisturbed.root.rglob("*"))
    assert notes == []


def test_a_second_run_at_once_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    process = begin(photos, tmp_path / "out", tmp_path / "script.py", 1)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(DataError, match="out: another process is preparing it just now; wait for it or stop it"):
        prepare(photos, tmp_path / "out", samples_per_shard=PER_SHARD)
    process.communicate()
    assert process.returncode == 0
    assert list(verify_shards(Manifest.load(tmp_path / "out"))) == []


def interrupted(photos: Path, out: Path, error: type[BaseException], **options: Any) -> list[str]:
    def interrupt(progress: PreparingProgress) -> None:
        if progress.done == 12:
            raise error

    notes: list[str] = []
    with pytest.raises(DataError if error is OSError else error):
        prepare(photos, out, samples_per_shard=PER_SHARD, progress=interrupt, note=notes.append, **options)
    return notes


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(
    photos: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    notes = interrupted(photos, tmp_path / "out", error)
    assert len(notes) == 1
    assert "6 finished shards are kept in" in notes[0]
    assert "the same command goes on" in notes[0]
    before = identities(tmp_path / ".out.partial" / "built")
    manifest = prepare(photos, tmp_path / "out", samples_per_shard=PER_SHARD)
    assert before.items() <= identities(manifest.root).items()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interruption_before_the_first_shard_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    def interrupt(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[Any, None, None]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        prepare(photos, tmp_path / "out", mapper=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_was_damaged_meanwhile_is_built_again(photos: Path, tmp_path: Path) -> None:
    undisturbed = prepare(photos, tmp_path / "undisturbed", samples_per_shard=PER_SHARD)
    interrupted(photos, tmp_path / "out", KeyboardInterrupt)
    work = tmp_path / ".out.partial"
    with (work / "built" / "train" / "000001.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"?")
    next((work / "finished").glob("train-000002*")).write_bytes(b"no zip")
    assert prepare(photos, tmp_path / "out", samples_per_shard=PER_SHARD).digest == undisturbed.digest


def padded(jpeg: bytes, padding: bytes) -> bytes:
    """The same picture in other bytes: with padding at its end, or, for none, with another density in its header."""
    return jpeg + padding if padding else jpeg[:14] + bytes([jpeg[14] ^ 1]) + jpeg[15:]


@pytest.mark.parametrize("change", ["settings", "file", "size", "time", "fewer"])
def test_another_source_or_other_settings_start_anew_with_a_line(photos: Path, tmp_path: Path, change: str) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "photos"))
    interrupted(source, tmp_path / "out", KeyboardInterrupt)
    options: dict[str, Any] = {"samples_per_shard": PER_SHARD}
    if change == "settings":
        options["seed"] = 3
    elif change == "file":
        shutil.copy(source / "china" / "01.jpg", source / "china" / "00.jpg")
    elif change in ("size", "time"):
        path = source / "china" / "00.jpg"
        before = path.stat()
        path.write_bytes(padded(path.read_bytes(), bytes(change == "size")))
        assert (path.stat().st_size == before.st_size) is (change == "time")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "time")))
    else:
        for path in source.glob("*/0[2-9].jpg"):
            path.unlink()
    notes: list[str] = []
    resumed = prepare(source, tmp_path / "out", note=notes.append, **options)
    assert len(notes) == 1
    assert "begun with another source or other settings" in notes[0]
    fresh = prepare(source, tmp_path / "fresh", name="photos", **options)
    assert resumed.digest == fresh.digest
    assert sorted(p.name for p in resumed.root.rglob("*")) == sorted(p.name for p in fresh.root.rglob("*"))


@pytest.mark.parametrize("change", ["size", "time"])
def test_an_archive_is_unpacked_once_and_another_one_starts_anew(photos: Path, tmp_path: Path, change: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "gztar", photos.parent, "photos"))
    interrupted(archive, tmp_path / "out", KeyboardInterrupt)
    kept = next((tmp_path / ".out.partial" / "unpacked").rglob("00.jpg")).stat().st_ino
    interrupted(archive, tmp_path / "out", KeyboardInterrupt)
    assert next((tmp_path / ".out.partial" / "unpacked").rglob("00.jpg")).stat().st_ino == kept
    if change == "time":
        os.utime(archive, (1, 1))
    else:
        changed = archive.stat().st_mtime_ns
        with archive.open("ab") as file:
            file.write(bytes(512))
        os.utime(archive, ns=(changed, changed))
    notes: list[str] = []
    manifest = prepare(archive, tmp_path / "out", samples_per_shard=PER_SHARD, note=notes.append)
    assert len(notes) == 1
    assert "photos.tar.gz: not the source" in notes[0]
    assert manifest.digest == prepare(photos, tmp_path / "fresh", samples_per_shard=PER_SHARD).digest


def end_itself(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_worker_that_dies_is_told_in_one_line() -> None:
    with pytest.raises(DataError, match="a worker process died"):
        list(processes(2)(end_itself, range(4)))
    assert not multiprocessing.active_children()


def children_of(pid: int) -> list[int]:
    # "The process's children" of proc(5), by each thread that started them.
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
