"""Remote shards over real protocols: the same epoch as from disk, within the cache's limit, whatever the net does."""

import fcntl
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet_cluster.datasets import (
    Batch,
    DataError,
    EvalLoader,
    Manifest,
    Shard,
    TrainLoader,
    open_dataset,
    verify_shards,
)
from effnet_cluster.datasets.addresses import checked_address
from effnet_cluster.datasets.files import locked
from effnet_cluster.datasets.reading import cache as cache_module
from effnet_cluster.datasets.reading.cache import ShardCache, default_limit, on_disk
from effnet_cluster.datasets.reading.reader import ShardReader
from effnet_cluster.datasets.remote import Cancelled

from .servers import Behaviour, http_server

pytestmark = pytest.mark.timeout(60)
PLENTY = 2**30


@pytest.fixture
def served(photo_shards: Manifest) -> Iterator[tuple[str, Behaviour]]:
    with http_server(photo_shards.root) as (address, behaviour):
        yield address, behaviour


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.remote._FIRST_PAUSE_S", 0.005)
    monkeypatch.setattr("effnet_cluster.datasets.reading.cache._IN_USE_S", 0.2)
    monkeypatch.setattr("effnet_cluster.datasets.reading.cache._NOTED_S", 0.05)
    monkeypatch.setattr("effnet_cluster.datasets.reading.cache._PATIENCE_S", 1.0)


def train_loader(manifest: Manifest, **arguments: Any) -> TrainLoader:
    return TrainLoader(manifest, **{"image_size": 8, "global_batch": 4, "seed": 5, "shuffle_block": 2, **arguments})


def contents(batches: Iterator[Batch]) -> list[list[bytes]]:
    return [[column.numpy().tobytes() for column in batch if isinstance(column, torch.Tensor)] for batch in batches]


def shard_names(manifest: Manifest, split: str = "train") -> list[str]:
    return [shard.name for shard in manifest.splits[split].shards]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_remote_epoch_is_the_local_one_bit_for_bit(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path, workers: int
) -> None:
    remote = open_dataset(served[0], tmp_path, PLENTY)
    assert remote.digest == photo_shards.digest
    assert remote.location == served[0]
    loader = train_loader(remote, loader_workers=workers)
    for epoch, start in ((0, 0), (1, 2)):
        assert contents(loader.epoch(epoch, start)) == contents(train_loader(photo_shards).epoch(epoch, start))
    assert {served[1].requests[name] for name in shard_names(remote)} == {1}
    arguments: dict[str, Any] = {"image_size": 8, "resize": 8, "batch_size": 3}
    assert contents(iter(EvalLoader(remote, loader_workers=workers, **arguments))) == contents(
        iter(EvalLoader(photo_shards, **arguments))
    )


def test_a_remote_epoch_over_s3_is_the_local_one(photo_shards: Manifest, tmp_path: Path, s3: Any) -> None:
    pytest.importorskip("s3fs")
    s3.create_bucket(Bucket="photos")
    for path in photo_shards.root.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "photos", f"v1/{path.relative_to(photo_shards.root).as_posix()}")
    remote = open_dataset("s3://photos/v1/", tmp_path, PLENTY)
    assert list(verify_shards(remote)) == []
    for workers in (0, 2):
        assert contents(train_loader(remote, loader_workers=workers).epoch(0)) == contents(
            train_loader(photo_shards).epoch(0)
        )
    s3.delete_object(Bucket="photos", Key=f"v1/{shard_names(remote, 'val')[0]}")
    (bad,) = verify_shards(remote)
    assert bad.name == shard_names(remote, "val")[0]
    assert bad.problem.endswith("cannot be read: it is not there")
    with pytest.raises(DataError, match=r"s3://photos/v2/manifest\.json: cannot be read: it is not there"):
        open_dataset("s3://photos/v2", tmp_path, PLENTY)


def test_a_remote_epoch_over_gs_is_the_local_one(
    photo_shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator speaks the JSON API, over which all buckets but hierarchical ones can be read.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="photos")
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
        bucket = gcsfs.GCSFileSystem()
        for path in photo_shards.root.rglob("*"):
            if path.is_file():
                bucket.pipe_file(f"photos/v1/{path.relative_to(photo_shards.root).as_posix()}", path.read_bytes())
        remote = open_dataset("gs://photos/v1/", tmp_path, PLENTY)
        assert list(verify_shards(remote)) == []
        for workers in (0, 2):
            assert contents(train_loader(remote, loader_workers=workers).epoch(0)) == contents(
                train_loader(photo_shards).epoch(0)
            )
        with pytest.raises(DataError, match=r"gs://photos/v2/manifest\.json: cannot be read: it is not there"):
            open_dataset("gs://photos/v2", tmp_path, PLENTY)
    finally:
        server.stop()


def held_on_disk(folder: Path) -> int:
    """Bytes of the disk that files of `folder` take, with those that are unlinked and that a process has open."""
    found = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            found[status.st_ino] = status.st_blocks * 512
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{folder}/"):
                status = link.stat()
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def hold_shards(cache: ShardCache, shards: list[Shard], turn: Any, checked: Any) -> None:
    """Open shards and keep them open, as a reader does, until all is measured."""
    held = []
    for shard in shards:
        held.append(cache.open(shard))
        held[-1].read(512)
    turn.wait(50)
    checked.wait(50)


def test_the_disk_holds_no_more_than_the_limit_with_what_readers_have_open(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_IN_USE_S", 0.2)
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 1.0)
    shards = list(photo_shards.splits["train"].shards)
    limit = sum(sorted(on_disk(shard.bytes) for shard in shards)[-2:])
    folder = tmp_path / "shards"
    cache = ShardCache(served[0], folder, limit)
    context = multiprocessing.get_context("fork")
    turn, checked = context.Barrier(5), context.Barrier(5)
    readers = [
        context.Process(target=hold_shards, args=(cache, shards[n:] + shards[:n], turn, checked)) for n in range(4)
    ]
    for process in readers:
        process.start()
    seen = []
    while turn.n_waiting < 4:
        if folder.exists():
            # Between two looks at files one may be removed and another made; nobody does so without this lock.
            with locked(folder / ".lock"):
                seen.append(held_on_disk(folder))
        assert any(process.is_alive() for process in readers)
        time.sleep(0.02)
    turn.wait(50)
    seen.append(held_on_disk(folder))
    checked.wait(50)
    for process in readers:
        process.join()
    assert max(seen) <= limit
    assert max(seen) >= min(shard.bytes for shard in shards)
    assert {process.exitcode for process in readers} == {0}


def test_a_shard_that_is_read_just_now_is_not_taken_away(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, three, *_ = photo_shards.splits["train"].shards
    sizes = [on_disk(shard.bytes) for shard in (one, two, three)]
    cache = ShardCache(served[0], tmp_path / "shards", sizes[0] + max(sizes[1:]))
    with cache.open(one) as busy:
        cache.open(two).close()
        fetching = threading.Thread(target=cache.fetch, args=(three,))
        fetching.start()
        begun = time.monotonic()
        while time.monotonic() - begun < 0.6:  # longer than without reading; not so long that it waits no more
            busy.seek(0)
            assert len(busy.read(512)) == 512
            assert cache.is_whole(busy, one)
            time.sleep(0.01)
        fetching.join()
        assert cache.is_whole(busy, one)
    assert {path.stem for path in cache.folder.glob("*.tar")} == {one.sha256, three.sha256}


def test_a_fetch_waits_for_whoever_downloads_the_shard_already(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    shard = photo_shards.splits["train"].shards[0]
    cache = ShardCache(served[0], tmp_path / "shards", PLENTY)
    served[1].delay_s = 1.0
    first = threading.Thread(target=cache.fetch, args=(shard,))
    first.start()
    while not [*cache.folder.glob("*.part")]:
        time.sleep(0.01)
    cache.fetch(shard, wait=False)
    held = [link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link).endswith(".part")]
    assert len(held) == 1, "the file that it asked for in vain stayed open"
    assert not [*cache.folder.glob("*.tar")], "it was asked not to wait"
    cache.fetch(shard)
    assert [path.stem for path in cache.folder.glob("*.tar")] == [shard.sha256]
    first.join()
    assert served[1].requests[shard.name] == 1


def test_who_waits_for_room_can_be_called_off(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, *_ = photo_shards.splits["train"].shards
    cache = ShardCache(served[0], tmp_path / "shards", on_disk(max(one.bytes, two.bytes)))
    answers = iter([False, False, True])
    with cache.open(one) as busy:
        busy.read(512)
        assert cache.is_whole(busy, one)
        with pytest.raises(Cancelled):
            cache.fetch(two, cancelled=lambda: next(answers))
        assert cache.is_whole(busy, one)
    assert [*answers] == []
    assert served[1].requests[two.name] == 0
    assert [path.stem for path in cache.folder.glob("[!.]*")] == [one.sha256]


def test_a_shard_larger_than_the_cache_is_refused_before_it_is_asked_for(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    shard = photo_shards.splits["train"].shards[0]
    fits = on_disk(shard.bytes)
    with pytest.raises(
        DataError, match=rf"{shard.name}: {shard.bytes:,} bytes, the cache limit is {fits - 1:,}; raise it"
    ):
        ShardCache(served[0], tmp_path / "small", fits - 1).open(shard)
    assert served[1].requests[shard.name] == 0
    ShardCache(served[0], tmp_path / "large", fits).open(shard).close()


def test_two_shards_that_fill_the_cache_exactly_are_both_kept(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, *_ = photo_shards.splits["train"].shards
    cache = ShardCache(served[0], tmp_path / "shards", on_disk(one.bytes) + on_disk(two.bytes))
    for shard in (one, two, one):
        cache.fetch(shard)
    assert {path.stem for path in cache.folder.glob("*.tar")} == {one.sha256, two.sha256}
    assert {served[1].requests[shard.name] for shard in (one, two)} == {1}


def test_a_download_can_be_called_off_and_leaves_nothing(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    shard = photo_shards.splits["train"].shards[0]
    cache = ShardCache(served[0], tmp_path / "shards", PLENTY)
    with pytest.raises(Cancelled):
        cache.fetch(shard, cancelled=lambda: served[1].requests[shard.name] > 0)
    assert not [*cache.folder.glob("[!.]*")]


def test_a_shard_that_is_shorter_on_the_server_is_told_with_its_sizes(
    photo_shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.remote._FIRST_PAUSE_S", 0.005)
    shard = photo_shards.splits["train"].shards[0]
    place = tmp_path / "served" / shard.name
    place.parent.mkdir(parents=True)
    place.write_bytes((photo_shards.root / shard.name).read_bytes()[:1000])
    with (
        http_server(tmp_path / "served") as (address, _),
        pytest.raises(DataError, match=rf"1,000 of {shard.bytes:,} bytes arrived"),
    ):
        ShardCache(address, tmp_path / "shards", PLENTY).fetch(shard)
    assert not [*(tmp_path / "shards").glob("[!.]*")]


def test_a_cache_that_cannot_be_written_is_told_in_one_line_with_its_folder(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "shards"
    with pytest.raises(
        DataError, match=rf"^{folder}: cannot be written: Not a directory; make room or lower the"
    ) as caught:
        ShardCache(served[0], folder, PLENTY).fetch(photo_shards.splits["train"].shards[0])
    assert "\n" not in str(caught.value)


def test_a_shard_is_on_the_disk_before_it_has_its_name(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = photo_shards.splits["train"].shards[0]
    cache = ShardCache(served[0], tmp_path / "new" / "shards", PLENTY)
    synced: list[tuple[int, list[str]]] = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, sorted(path.suffix for path in cache.folder.glob("[!.]*"))))

    monkeypatch.setattr(os, "fsync", fsync)
    cache.fetch(shard)
    assert synced == [(shard.bytes, [".part"])]
    assert [path.name for path in cache.folder.glob("[!.]*")] == [f"{shard.sha256}.tar"]


def test_what_was_fetched_ahead_outlives_what_was_read_before(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, three, *_ = photo_shards.splits["train"].shards
    sizes = [on_disk(shard.bytes) for shard in (one, two, three)]
    cache = ShardCache(served[0], tmp_path / "shards", sizes[1] + max(sizes[0], sizes[2]))
    with cache.open(one) as file:
        cache.fetch(two)
        file.read(512)
        assert cache.is_whole(file, one)
    cache.fetch(three)
    assert {path.stem for path in cache.folder.glob("*.tar")} == {two.sha256, three.sha256}


def test_readers_that_need_more_than_the_limit_still_come_to_their_end(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    """One reads the same shard all the time, which would keep the other one waiting for ever."""
    one, two, *_ = photo_shards.splits["train"].shards
    cache = ShardCache(served[0], tmp_path / "shards", on_disk(max(one.bytes, two.bytes)))
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            with cache.open(one) as file:
                while not stop.is_set() and cache.is_whole(file, one):
                    time.sleep(0.01)

    reading = threading.Thread(target=read_on)
    reading.start()
    time.sleep(0.3)
    begun = time.monotonic()
    cache.open(two).close()
    waited = time.monotonic() - begun
    stop.set()
    reading.join()
    assert 0.5 < waited < 20


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """Watches the bytes in the cache folder from another thread; gives the largest sum seen."""
    folder, stop, sums = tmp_path / "shards", threading.Event(), [0]

    def watch() -> None:
        while not stop.is_set():
            # A listing takes time. With the cache's lock no file comes while it is made; one that is renamed meanwhile
            # is listed twice, but is the same inode.
            with suppress(FileNotFoundError), (folder / ".lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = {}
                for path in folder.iterdir():
                    with suppress(FileNotFoundError):
                        status = path.stat()
                        found[status.st_ino] = max(status.st_size, status.st_blocks * 512)
                sums.append(sum(found.values()))
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a forked loader worker has a copy
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    yield lambda: max(sums)
    stop.set()
    thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_never_exceeds_its_limit(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path, watched: Callable[[], int], workers: int
) -> None:
    sizes = sorted(on_disk(shard.bytes) for shard in photo_shards.splits["train"].shards)
    limit = sum(sizes[-2:])  # exactly what a block of two may take
    remote = open_dataset(served[0], tmp_path, limit)
    for epoch in range(3):
        loaded = contents(train_loader(remote, loader_workers=workers).epoch(epoch))
        assert loaded == contents(train_loader(photo_shards).epoch(epoch))
    assert sizes[0] <= watched() <= limit
    with pytest.raises(DataError, match=r"3 shards read side by side: up to [\d,]+ bytes, more than the cache limit"):
        train_loader(remote, shuffle_block=3)
    with pytest.raises(DataError, match="lower shuffle_block"):
        train_loader(remote, shuffle_block=None)  # all six


def rank_epoch(address: str, cache: str, limit: int, rank: int, results: "multiprocessing.Queue[Any]") -> None:
    manifest = open_dataset(address, Path(cache), limit)
    loader = train_loader(manifest, global_batch=4, rank=rank, world_size=2, loader_workers=2)
    results.put((rank, contents(loader.epoch(1))))


@pytest.mark.parametrize("room", ["enough", "little"])
def test_ranks_and_loader_workers_share_one_cache(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path, watched: Callable[[], int], room: str
) -> None:
    sizes = sorted(on_disk(shard.bytes) for shard in photo_shards.splits["train"].shards)
    limit = PLENTY if room == "enough" else sum(sizes[-3:])
    served[1].delay_s = 0.05
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=rank_epoch, args=(served[0], str(tmp_path), limit, rank, results)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    loaded = dict(results.get(timeout=50) for _ in processes)
    for process in processes:
        process.join()
    for rank in range(2):
        assert loaded[rank] == contents(train_loader(photo_shards, rank=rank, world_size=2).epoch(1))
    assert watched() <= limit
    if room == "enough":
        assert {served[1].requests[name] for name in shard_names(photo_shards)} == {1}


def test_passing_trouble_is_waited_out(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, behaviour = served
    first, second, third, fourth, *_ = shard_names(photo_shards)
    behaviour.unavailable.update({"manifest.json": 2, first: 3})
    behaviour.truncated.update({"index.npz": 1, second: 2})
    behaviour.corrupted.update({third: 1})
    behaviour.silent.update({fourth: 1})
    monkeypatch.setattr("effnet_cluster.datasets.remote._SILENCE_TIMEOUT_S", 0.3)
    remote = open_dataset(address, tmp_path, PLENTY)
    assert contents(train_loader(remote).epoch(0)) == contents(train_loader(photo_shards).epoch(0))
    requests = [behaviour.requests[name] for name in ("manifest.json", "index.npz", first, second, third, fourth)]
    assert requests == [3, 2, 4, 3, 2, 2]


def test_lasting_trouble_is_told_in_one_line(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    address, behaviour = served
    remote = open_dataset(address, tmp_path, PLENTY)
    cache = ShardCache.of(remote)
    assert cache is not None
    wrong, down, cut, gone, denied, fine = remote.splits["train"].shards
    behaviour.corrupted[wrong.name] = 9
    behaviour.unavailable[down.name] = 99
    behaviour.truncated[cut.name] = 99
    behaviour.forbidden.add(denied.name)
    (renamed := photo_shards.root / gone.name).rename(renamed.with_suffix(".away"))
    try:
        for shard, message, attempts in (
            (wrong, rf"differs from the manifest: sha256 {wrong.sha256} expected, [0-9a-f]{{64}} found", 2),
            (down, r"cannot be read: .*503.*\(tried 8 times\)", 8),
            (cut, r"cannot be read: .*\(tried 8 times\)", 8),
            (gone, "cannot be read: it is not there$", 1),
            (denied, "cannot be read: .*403", 1),
        ):
            with pytest.raises(DataError, match=rf"{address}/{shard.name}: {message}") as caught:
                cache.open(shard)
            assert "\n" not in str(caught.value)
            assert behaviour.requests[shard.name] == attempts
        cache.open(fine).close()
        assert [path.name for path in (tmp_path / "shards").glob("*.*r*")] == [f"{fine.sha256}.tar"]
    finally:
        renamed.with_suffix(".away").rename(renamed)


def test_an_evicted_shard_is_empty_to_who_has_it_open_and_a_damaged_copy_is_fetched_again(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, *_ = photo_shards.splits["train"].shards
    cache = ShardCache(served[0], tmp_path / "shards", on_disk(max(one.bytes, two.bytes)))
    with cache.open(one) as held:
        assert cache.is_whole(held, one)
        assert held.readall() == (photo_shards.root / one.name).read_bytes()
        cache.open(two).close()
        assert [path.stem for path in (tmp_path / "shards").glob("*.tar")] == [two.sha256]
        assert not cache.is_whole(held, one)
        assert os.fstat(held.fileno()).st_blocks == 0
    reader = ShardReader(open_dataset(served[0], tmp_path, cache.limit), "train", 1)
    # 16 samples in six shards, of which one is there: every one is read from its new copy.
    local = ShardReader(photo_shards, "train")
    for sample_id in (0, 5, 1, 4):
        assert reader.read(sample_id) == local.read(sample_id)
    cache.open(two).close()
    (tmp_path / "shards" / f"{two.sha256}.tar").write_bytes(b"short")
    with cache.open(two) as again:
        assert again.readall() == (photo_shards.root / two.name).read_bytes()


def test_what_a_killed_download_left_is_taken_over_or_removed(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, *_ = photo_shards.splits["train"].shards
    cache = ShardCache(served[0], tmp_path / "shards", on_disk(max(one.bytes, two.bytes)))
    cache.folder.mkdir()
    for shard in (one, two):
        (cache.folder / f"{shard.sha256}.part").write_bytes(bytes(shard.bytes))
    with cache.open(one) as file:
        assert file.readall() == (photo_shards.root / one.name).read_bytes()
    assert sorted(path.name for path in cache.folder.iterdir()) == [".lock", f"{one.sha256}.tar"]


def test_the_least_recently_used_shard_is_evicted(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    one, two, three, *_ = photo_shards.splits["train"].shards
    sizes = [on_disk(shard.bytes) for shard in (one, two, three)]
    cache = ShardCache(served[0], tmp_path / "shards", sizes[0] + max(sizes[1:]))
    for shard in (one, two, one, three):
        cache.open(shard).close()
    assert {path.stem for path in cache.folder.glob("*.tar")} == {one.sha256, three.sha256}


def test_shards_are_fetched_before_they_are_asked_for(
    photo_shards: Manifest, served: tuple[str, Behaviour], tmp_path: Path
) -> None:
    batches = train_loader(open_dataset(served[0], tmp_path, PLENTY), global_batch=1).epoch(0)
    next(batches)  # of a block of two shards
    deadline = threading.Event()
    names = shard_names(photo_shards)
    for _ in range(200):
        if sum(served[1].requests[name] for name in names) >= 3:
            break
        deadline.wait(0.02)
    assert sum(served[1].requests[name] for name in names) in (3, 4)
    deadline.wait(0.2)
    assert sum(served[1].requests[name] for name in names) <= 4  # bounded: not the whole dataset


@pytest.mark.parametrize(("most", "block"), [(PLENTY, 6), (2**16, 2)])
def test_the_default_order_does_not_depend_on_where_the_data_lie(
    photo_shards: Manifest,
    served: tuple[str, Behaviour],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    block: int,
) -> None:
    monkeypatch.setattr("effnet_cluster.datasets.manifest.SHUFFLE_BYTES", most)
    remote = [open_dataset(served[0], tmp_path / str(limit), limit) for limit in (PLENTY, 2 * PLENTY)]
    sequences = [train_loader(manifest, shuffle_block=None).sequence for manifest in (photo_shards, *remote)]
    assert {sequence.order.shuffle_block for sequence in sequences} == {block}
    assert len({tuple(sequence.samples(1).ids.tolist()) for sequence in sequences}) == 1


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("pipe:touch /tmp/owned", "not an address that can be read"),
        ("pipe://touch", "not an address"),
        ("simplecache::s3://bucket/x", "not an address"),
        ("ftp://host/x", "not an address .* s3://, gs://"),
        ("memory://x", "not an address"),
        ("s3:///x", "not an address"),
        ("https://me:secret@host/x", r"^https://host/x: .* credentials"),
        ("https://host/x?token=secret", r"^https://host/x: .* credentials"),
    ],
)
def test_other_addresses_and_secrets_in_addresses_are_refused(tmp_path: Path, ref: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(ref, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_file_address_is_its_folder(photo_shards: Manifest, tmp_path: Path) -> None:
    manifest = open_dataset(photo_shards.root.as_uri(), tmp_path)
    assert (manifest.root, manifest.remote) == (photo_shards.root, None)
    assert checked_address("s3://bucket/x//") == "s3://bucket/x"


def test_the_default_limit_is_what_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "held").write_bytes(bytes(10 * 4096))
    for free, expected in ((2**40, 32 * 2**30), (90 * 4096, 80 * 4096)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert default_limit(tmp_path) == expected
    # A folder to come holds nothing, whatever lies where it will be made.
    assert default_limit(tmp_path / "new" / "folder") == 72 * 4096
