"""Verifying a dataset: whether its shards are still those that its manifest describes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from .errors import DataError
from .manifest import Manifest, Shard
from .remote import CHUNK_BYTES, join, retrying, stream


class BadShard(NamedTuple):
    """A shard that is missing or differs: its name in the manifest, and what is wrong in one line."""

    name: str
    problem: str


def verify_shards(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> Iterator[BadShard]:
    """Read every shard, local or remote, and yield those that do not have the manifest's size and sha256.

    Remote shards are read past the cache, which then need not hold them.

    Args:
        progress: called with (bytes of the shards that were checked, bytes of all).
    """
    # Two splits may share a shard.
    shards = {shard.name: shard for split in manifest.splits.values() for shard in split.shards}
    total, done = sum(shard.bytes for shard in shards.values()), 0
    for shard in shards.values():
        if (problem := _problem(manifest, shard)) is not None:
            yield BadShard(shard.name, problem)
        done += shard.bytes
        if progress is not None:
            progress(done, total)


def _problem(manifest: Manifest, shard: Shard) -> str | None:
    try:
        if manifest.remote is None:
            with (manifest.root / shard.name).open("rb") as file:
                size, found = _digest(iter(partial(file.read, CHUNK_BYTES), b""))
        else:
            address = join(manifest.remote.address, shard.name)
            size, found = retrying(address, lambda: _digest(stream(address, shard.bytes)))
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except DataError as error:
        return str(error)
    if size != shard.bytes:
        return f"{size:,} bytes, the manifest says {shard.bytes:,}"
    return None if found == shard.sha256 else f"sha256 {found}, the manifest says {shard.sha256}"


def _digest(chunks: Iterable[bytes]) -> tuple[int, str]:
    """(bytes, sha256 in hex) of a stream."""
    hasher, size = hashlib.sha256(), 0
    for chunk in chunks:
        hasher.update(chunk)
        size += len(chunk)
    return size, hasher.hexdigest()
