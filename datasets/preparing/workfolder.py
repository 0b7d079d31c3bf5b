"""The folder in which `prepare` works, beside its output: for one process at a time, and kept after a kill."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import is_at, lock, unlock, write_atomically
from ..manifest import MANIFEST_FILE
from .archives import Left, extract

_INSIDE = ".partial"
_MOVED_FILE = "moved.json"
# What an output folder may hold that is empty all the same: the work folder, and what each ext4 volume has.
_NOTHING = frozenset({_INSIDE, "lost+found"})

Note = Callable[[str], None]
"""Takes a line for the person who waits."""


class WorkFolder:
    """What a run of `prepare` has done so far: an unpacked archive, and the shards that are finished."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.built = root / "built"
        self._finished = root / "finished"
        self.unpacked = root / "unpacked"
        self._inputs = root / "inputs.json"
        self._origin = root / "unpacked.json"

    def completion(self, shard: str) -> Path:
        """The file that says that the shard `shard` (such as train/000000.tar) is finished, and what it holds."""
        return self._finished / f"{shard.replace('/', '-')}.npz"

    @property
    def finished(self) -> int:
        """Number of finished shards."""
        return sum(not path.name.startswith(".") for path in self._finished.glob("*.npz"))

    def unpack(self, archive: Path, encoding: str | None, note: Note) -> Left:
        """Unpack an archive into `unpacked`, unless an earlier run has done so; returns what it left out."""
        found = archive.stat()
        origin = {
            "archive": str(archive.absolute()),
            "bytes": found.st_size,
            "changed": found.st_mtime_ns,
            "encoding": encoding,
        }
        before = _read_json(self._origin)
        if isinstance(before, dict) and before.get("origin") == origin:
            return dict(before["left"])
        if self.finished:
            note(f"{archive}: not the source that {self.root} was begun with; starting anew")
        self._clear()
        self.unpacked.mkdir()
        left = extract(archive, self.unpacked, encoding=encoding)
        write_atomically(self._origin, json.dumps({"origin": origin, "left": left}))
        return left

    def begin(self, inputs: Mapping[str, str], note: Note) -> None:
        """Make ready for building the shards of these names from these inputs (see `ShardTask`).

        Shards of an earlier run stay; `build_shard` takes those whose inputs are the same. What belongs to no shard is
        removed.
        """
        digest = hashlib.sha256(json.dumps(sorted(inputs.items())).encode()).hexdigest()
        if self.finished and _read_json(self._inputs) != {"inputs": digest}:
            note(f"{self.root}: begun with another source or other settings; starting anew, except for shards that fit")
        write_atomically(self._inputs, json.dumps({"inputs": digest}))
        for folder in (self.built, self._finished):
            folder.mkdir(exist_ok=True)
        expected = {path for name in inputs for path in (self.built / name, self.completion(name))}
        for path in (*self.built.rglob("*"), *self._finished.iterdir()):
            if path.is_file() and path not in expected:
                path.unlink()

    def move_up(self) -> None:
        """Move all that was built into the folder that holds this one, the manifest last: with it the data is whole."""
        names = sorted((path.name for path in self.built.iterdir()), key=lambda name: (name == MANIFEST_FILE, name))
        write_atomically(self.root / _MOVED_FILE, json.dumps(names))
        for name in names:
            (self.built / name).rename(self.root.parent / name)

    def take_back(self) -> None:
        """Undo a `move_up` that was killed on its way."""
        for name in _read_json(self.root / _MOVED_FILE) or ():
            if (self.root.parent / name).exists():
                (self.root.parent / name).rename(self.built / name)
        (self.root / _MOVED_FILE).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _clear(self) -> None:
        for path in (self.built, self._finished, self.unpacked):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self._inputs, self._origin):
            path.unlink(missing_ok=True)


@contextmanager
def working_on(out_dir: Path, note: Note) -> Iterator[WorkFolder]:
    """The work folder of `out_dir`, held by this process alone; on the same file system, so that a rename publishes.

    It is removed at the end, unless an error or Ctrl-C ends the work while some shards are finished.

    Raises:
        DataError: another process holds it, or the place cannot be written.
    """
    # An empty folder that is there already may be a mounted volume, or in a folder that nobody may write: work in it.
    root = out_dir / _INSIDE if out_dir.is_dir() else out_dir.parent / f".{out_dir.name}.partial"
    work = WorkFolder(root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        held = _locked(root, out_dir)
    except OSError as error:
        raise DataError(f"{out_dir}: cannot be written: {error.strerror or error}") from error
    try:
        work.take_back()
        require_free(out_dir)
        yield work
    except BaseException as error:
        if kept := work.finished:
            note(f"{kept} finished shards are kept in {root}: the same command goes on; to give up, remove that folder")
        else:
            work.remove()
        if isinstance(error, OSError):
            where = error.filename or out_dir
            raise DataError(f"{where}: cannot be read or written: {error.strerror or error}") from error
        raise
    else:
        work.remove()
    finally:
        unlock(held)


@contextmanager
def working_aside(out_dir: Path) -> Iterator[WorkFolder]:
    """A work folder of this call's own beside `out_dir`, always removed.

    Raises:
        DataError: the place cannot be read or written.
    """
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{out_dir.name}.partial-", dir=out_dir.parent, ignore_cleanup_errors=True
        ) as root:
            yield WorkFolder(Path(root))
    except OSError as error:
        where = error.filename or out_dir
        raise DataError(f"{where}: cannot be read or written: {error.strerror or error}") from error


def resolved(out_dir: Path) -> Path:
    """The absolute path of an output folder, links followed: a rename would replace the link and not the folder."""
    return Path(out_dir).resolve()


def require_free(out_dir: Path) -> None:
    """Raise DataError if something is at `out_dir` that is neither an empty folder nor one that was begun."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise occupied(out_dir)
    if (out_dir / _INSIDE / _MOVED_FILE).exists():  # ended while it was published
        return
    if any(path.name not in _NOTHING for path in out_dir.iterdir()):
        raise occupied(out_dir)


def publish(work: WorkFolder, out_dir: Path) -> bool:
    """Move what was built to `out_dir`, the manifest last; False when something is there already."""
    if work.root.parent == out_dir:
        if any(path.name not in _NOTHING for path in out_dir.iterdir()):
            return False
        work.move_up()
        return True
    try:
        work.built.rename(out_dir)
    except OSError:
        if out_dir.exists():
            return False
        raise
    return True


def occupied(out_dir: Path) -> DataError:
    """The error for an output folder that is not free."""
    return DataError(f"{out_dir}: exists and is not empty; choose another folder or remove it")


def _locked(root: Path, out_dir: Path) -> int:
    """An open descriptor that holds the lock; the kernel frees it when the process ends, in whatever way."""
    while True:
        root.mkdir(exist_ok=True)
        try:
            descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # another run has just ended and removed the folder
            continue
        if not lock(descriptor, wait=False):
            os.close(descriptor)
            raise DataError(f"{out_dir}: another process is preparing it just now; wait for it or stop it")
        if is_at(descriptor, root / "lock"):
            return descriptor
        unlock(descriptor)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
