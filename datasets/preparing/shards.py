"""Writing shards: plain WebDataset tars of `KEY.jpg` + `KEY.cls`, whose bytes only the samples decide."""

import tarfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from ..decoding.images import EncodedImage
from ..errors import DataError

SAMPLES_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20


def require_limits(samples_per_shard: int, bytes_per_shard: int) -> None:
    """Raise DataError unless both limits of a shard are positive."""
    if samples_per_shard < 1 or bytes_per_shard < 1:
        raise DataError("samples and bytes per shard must be at least 1")


def shard_bounds(sizes: Iterable[int], samples_per_shard: int, bytes_per_shard: int) -> Iterator[tuple[int, int]]:
    """[begin, end) of each shard, for samples of these sizes in bytes.

    A shard ends once it has `samples_per_shard` samples or at least `bytes_per_shard` bytes.
    """
    begin = end = total = 0
    for size in sizes:
        if end - begin >= samples_per_shard or total >= bytes_per_shard:
            yield begin, end
            begin, total = end, 0
        end += 1
        total += size
    if end > begin:
        yield begin, end


def write_shard(path: Path, samples: Iterable[tuple[str, EncodedImage, int]]) -> None:
    """Write (key, image, label) in the given order as a tar; the same input gives the same bytes.

    The bytes are those of webdataset's TarWriter with mtime 0 and no owner. It is not used because importing webdataset
    imports torch, seconds for every worker process and for a command line that needs neither.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, image, label in samples:
            members = {"cls": str(label).encode(), image.extension: image.data}
            for extension, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                info.mode = 0o444
                tar.addfile(info, BytesIO(data))
