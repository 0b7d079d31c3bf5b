"""Which images of a source are the same file once more, found before it is split so that no split holds another's."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from .duplicates import hash_images
from .processes import Mapper
from .sources import Record

_SAMPLE_BYTES = 4096
_RECORDS_PER_TASK = 1024

Done = Callable[[int], None]
"""Told how many more images have been compared."""


class _Task(NamedTuple):
    begin: int
    records: tuple[Record, ...]
    whole: bool


def equal_files(records: Sequence[Record], mapper: Mapper, done: Done) -> dict[str, int]:
    """A number for each record's key, equal where their files hold the same bytes.

    Of most files nothing is read: first come the sizes, then 4 KiB from the middle of those that share one, then all
    of those that share these too. A record without a file, or whose file cannot be read, equals no other.
    """
    candidates = [record for record in records if record.path is not None]
    known: Mapping[str, bytes] = {record.key: str(record.bytes).encode() for record in candidates}
    for whole in (False, True):
        shared = Counter(known.values())
        candidates = [record for record in candidates if shared[known[record.key]] > 1]
        known = _digests(candidates, whole, mapper, done)
        candidates = [record for record in candidates if record.key in known]
    return _numbered(records, known)


def equal_pixels(records: Sequence[Record], mapper: Mapper, done: Done) -> dict[str, int]:
    """A number for each record's key, equal where the images have the same pixels; decodes all of them."""
    known: dict[str, bytes] = {}
    with closing(hash_images({"": records}, True, mapper)) as results:
        for _, begin, hashes in results:
            for offset, digest in enumerate(hashes.pixels):
                known[records[begin + offset].key] = digest.tobytes()
            done(len(hashes.pixels))
    return _numbered(records, known)


def _numbered(records: Sequence[Record], known: Mapping[str, bytes]) -> dict[str, int]:
    numbers: dict[bytes | str, int] = {}
    return {record.key: numbers.setdefault(known.get(record.key, record.key), len(numbers)) for record in records}


def _digests(records: Sequence[Record], whole: bool, mapper: Mapper, done: Done) -> dict[str, bytes]:
    tasks = (
        _Task(begin, tuple(records[begin : begin + _RECORDS_PER_TASK]), whole)
        for begin in range(0, len(records), _RECORDS_PER_TASK)
    )
    found: dict[str, bytes] = {}
    with closing(mapper(_digest_task, tasks)) as results:
        for begin, digests in results:
            for offset, digest in enumerate(digests):
                if digest is not None:
                    found[records[begin + offset].key] = digest
            done(len(digests))
    return found


def _digest_task(task: _Task) -> tuple[int, list[bytes | None]]:
    return task.begin, [_digest(record, task.whole) for record in task.records]


def _digest(record: Record, whole: bool) -> bytes | None:
    assert record.path is not None
    hasher = hashlib.sha256(str(record.bytes).encode())
    try:
        with record.path.open("rb") as file:
            if whole:
                return hashlib.file_digest(file, "sha256").digest()
            file.seek(os.fstat(file.fileno()).st_size // 2)
            hasher.update(file.read(_SAMPLE_BYTES))
    except OSError:  # told when it is to be stored
        return None
    return hasher.digest()
