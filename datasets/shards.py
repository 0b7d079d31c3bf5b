"""Shards: plain WebDataset tars of `KEY.jpg` + `KEY.cls`, written deterministically."""

from collections.abc import Iterable
from contextlib import closing
from io import BufferedWriter
from pathlib import Path

from .errors import DataError
from .images import EncodedImage

SAMPLES_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20


def write_shards(
    folder: Path,
    samples: Iterable[tuple[str, EncodedImage, int]],
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
) -> list[Path]:
    """Write (key, image, label) in the given order as `folder/000000.tar`, ...; the same input gives the same bytes.

    A shard is closed once it has `samples_per_shard` samples or at least `bytes_per_shard` bytes of members.

    Raises:
        DataError: a limit is not positive.
        OSError: the disk is full or the folder cannot be written.
    """
    require_limits(samples_per_shard, bytes_per_shard)
    from webdataset import ShardWriter  # imports torch, which the command line does not need

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    handles: list[BufferedWriter] = []

    def open_shard(name: str) -> BufferedWriter:
        # Not ShardWriter's own opener: that one reads "%", ":" and WDS_SECURE into a plain path.
        written.append(folder / name)
        handles.append(written[-1].open("wb"))
        return handles[-1]

    try:
        with closing(
            ShardWriter(
                "%06d.tar",
                maxcount=samples_per_shard,
                maxsize=bytes_per_shard,
                opener=open_shard,
                post=lambda _: handles[-1].close(),
                verbose=0,
                encoder=False,
                # Who wrote the shard and when must not change its sha256.
                mtime=0,
                user="",
                group="",
            )
        ) as writer:
            for key, image, label in samples:
                writer.write({"__key__": key, image.extension: image.data, "cls": str(label).encode()})
    finally:
        for handle in handles:
            handle.close()
    return written


def require_limits(samples_per_shard: int, bytes_per_shard: int) -> None:
    """Raise DataError unless both limits of a shard are positive."""
    if samples_per_shard < 1 or bytes_per_shard < 1:
        raise DataError("samples and bytes per shard must be at least 1")
