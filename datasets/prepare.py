"""From a source to a prepared dataset, whole or not at all; and from what a user names to a manifest."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .archives import archive_stem, extract, is_archive
from .cache import ShardCache, default_limit
from .errors import DataError
from .images import EncodedImage
from .indexing import index_shards
from .manifest import MANIFEST_FILE, Manifest
from .philox import Domain, permutation, require_word
from .remote import checked_address, is_address
from .shards import BYTES_PER_SHARD, SAMPLES_PER_SHARD, require_limits, write_shards
from .sources import Record, Source, content_root, digits_source, folder_source, looks_like_classes, require_fraction

DIGITS = "digits"
_DIGITS_FOLDER = "digits-v1"
_DIGITS_PER_SHARD = 256
_SHARDS_FOLDER = "shards"
_UNPACKED = "unpacked"
_BUILT = "built"


class Progress(NamedTuple):
    """How far `prepare` is: images written, images in all, and files of the source that were no images."""

    done: int
    total: int
    ignored: int


ProgressCallback = Callable[[Progress], None]


def prepare(
    source_path: Path,
    out_dir: Path,
    *,
    name: str | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    progress: ProgressCallback | None = None,
    mirror_safe: bool = True,
) -> Manifest:
    """Write a folder of classes, or an archive of one, as shards and manifest into `out_dir`.

    The work is done in a folder beside `out_dir` that is renamed at the end and removed on any failure or Ctrl-C, so
    `out_dir` is complete or untouched. The same images, fraction and seed give the same manifest digest on every
    machine.

    Args:
        source_path: ROOT/CLASS/*.jpg, ROOT/{train,val}/CLASS/*.jpg, or a .tgz, .tar.gz, .tar or .zip of either.
        name: dataset name; default: that of the source.
        val_fraction: part of each class for validation, where the source has no splits of its own.
        seed: of the validation split and of the order in which samples are written.
        progress: called with `Progress` after every image.
        mirror_safe: whether mirrored images keep their class.

    Raises:
        DataError: `out_dir` exists and is not empty, the source is missing, damaged or not of these forms, or the disk
            is full.
    """
    source_path, out_dir = Path(source_path), Path(out_dir).absolute()
    # Before an archive is unpacked for minutes, everything that can be wrong with the call.
    require_fraction(val_fraction)
    require_word("seed", seed)
    require_limits(samples_per_shard, bytes_per_shard)
    if not source_path.exists():
        raise DataError(f"{source_path}: no such file or folder to prepare")
    _require_free(out_dir)
    with _aside(out_dir) as work, _named_after(source_path, work / _UNPACKED):
        source = _open_source(source_path, work / _UNPACKED, name).with_validation(val_fraction, seed)
        _write(source, work / _BUILT, seed, samples_per_shard, bytes_per_shard, mirror_safe, progress)
        if not _publish(work / _BUILT, out_dir):
            raise _occupied(out_dir)
    return Manifest.load(out_dir)


def prepare_digits(out_dir: Path, *, progress: ProgressCallback | None = None) -> Manifest:
    """Write the embedded digits (see `digits_source`) into `out_dir`: 80 % train, 20 % val, always the same split.

    Raises:
        DataError: `out_dir` exists and is not empty, or cannot be written.
    """
    out_dir = Path(out_dir).absolute()
    _require_free(out_dir)
    with _aside(out_dir) as work:
        _write_digits(work / _BUILT, progress)
        if not _publish(work / _BUILT, out_dir):
            raise _occupied(out_dir)
    return Manifest.load(out_dir)


def open_dataset(ref: str, cache_root: Path, cache_limit: int | None = None) -> Manifest:
    """The manifest that a user means: the word "digits", or a folder or address that holds what `prepare` has written.

    "digits" is written to `cache_root/digits-v1` the first time; any number of processes may ask for it at once.

    Args:
        ref: "digits", a folder (also as file://FOLDER, read in place), or an address s3://, gs://, hdfs://, http(s)://,
            whose shards are fetched into `cache_root/shards` while they are read.
        cache_limit: bytes of remote shards kept on this node; default: 32 GiB, or 80 % of what the disk has.

    Raises:
        DataError: nothing is there, or it is not prepared yet; the message says which command prepares it.
    """
    if ref == DIGITS:
        return _open_digits(Path(cache_root).absolute() / _DIGITS_FOLDER)
    if ref.startswith("file://"):
        ref = url2pathname(urlsplit(ref).path)
    elif is_address(ref):
        address, shards = checked_address(ref), Path(cache_root).absolute() / _SHARDS_FOLDER
        return Manifest.load_remote(ShardCache(address, shards, cache_limit or default_limit(shards)))
    folder = Path(ref)
    if not folder.exists():
        raise DataError(f"{ref}: no such folder; make it with: effnet-cluster data prepare SOURCE {ref}")
    if folder.is_dir() and (folder / MANIFEST_FILE).exists():
        return Manifest.load(folder)
    if is_archive(folder):
        command = f"effnet-cluster data prepare {ref} {folder.with_name(archive_stem(folder) + '-shards')}"
        raise DataError(f"{ref}: an archive, not yet prepared; run: {command}")
    if folder.is_dir() and looks_like_classes(folder):
        command = f"effnet-cluster data prepare {ref} {folder.with_name(folder.resolve().name + '-shards')}"
        raise DataError(f"{ref}: a folder of images, not yet prepared; run: {command}")
    raise DataError(f"{ref}: not a prepared dataset (no {MANIFEST_FILE}); run: effnet-cluster data prepare SOURCE OUT")


def _open_digits(folder: Path) -> Manifest:
    if not (folder / MANIFEST_FILE).exists():
        with _aside(folder) as work:
            _write_digits(work / _BUILT, None)
            # Another process may have been faster: then its copy is there, with the same bytes, and ours is dropped.
            _publish(work / _BUILT, folder)
    try:
        return Manifest.load(folder)
    except DataError as error:
        raise DataError(
            f"{folder}: the stored copy of the digits is damaged; remove that folder and try again"
        ) from error


def _open_source(source_path: Path, unpacked: Path, name: str | None) -> Source:
    if source_path.is_dir():
        return folder_source(source_path, name)
    if is_archive(source_path):
        unpacked.mkdir()
        extract(source_path, unpacked)
        return folder_source(content_root(unpacked), name or archive_stem(source_path))
    raise DataError(f"{source_path}: neither a folder nor a .tgz, .tar.gz, .tar or .zip archive")


@contextmanager
def _named_after(archive: Path, unpacked: Path) -> Iterator[None]:
    """Name files in errors as members of the archive: where they were unpacked is gone when a person reads it."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(unpacked), str(archive))) from error


def _write_digits(built: Path, progress: ProgressCallback | None) -> None:
    source = digits_source().with_validation(0.2, seed=0)
    _write(source, built, 0, _DIGITS_PER_SHARD, BYTES_PER_SHARD, mirror_safe=False, progress=progress)


def _write(
    source: Source,
    built: Path,
    seed: int,
    samples_per_shard: int,
    bytes_per_shard: int,
    mirror_safe: bool,
    progress: ProgressCallback | None,
) -> None:
    labels = {name: number for number, name in enumerate(source.classes)}
    total = sum(len(records) for records in source.splits.values())
    short_sides: list[int] = []

    def shuffled(records: Sequence[Record], split_number: int) -> Iterator[tuple[str, EncodedImage, int]]:
        # Not class after class: a shuffle in blocks of shards, and any plain WebDataset reader, need mixed shards.
        for position in permutation(len(records), Domain.WRITING, seed, minor=split_number):
            record = records[position]
            image = record.read()
            short_sides.append(min(image.width, image.height))
            yield record.key, image, labels[record.class_name]
            if progress is not None:
                progress(Progress(len(short_sides), total, source.ignored))

    for number, (split, records) in enumerate(source.splits.items()):
        write_shards(
            built / split,
            shuffled(records, number),
            samples_per_shard=samples_per_shard,
            bytes_per_shard=bytes_per_shard,
        )
    manifest = index_shards(
        built, name=source.name, classes=source.classes, image_size=int(median(short_sides)), mirror_safe=mirror_safe
    )
    indexed = sum(len(split) for split in manifest.splits.values())
    if indexed != total:
        raise DataError(
            f"{source.name}: wrote {total} images but the shards hold {indexed}; the disk is not to be trusted"
        )
    manifest.save()


@contextmanager
def _aside(out_dir: Path) -> Iterator[Path]:
    """A work folder beside `out_dir` (same file system, so that a rename publishes), always removed."""
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.partial-", dir=out_dir.parent))
    except OSError as error:
        raise DataError(f"{out_dir}: cannot be written: {error.strerror or error}") from error
    try:
        yield work
    except OSError as error:
        raise DataError(f"{error.filename or out_dir}: cannot be read or written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_free(out_dir: Path) -> None:
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise _occupied(out_dir)


def _publish(built: Path, out_dir: Path) -> bool:
    """Rename `built` to `out_dir` in one step; False when something is there that is not an empty folder."""
    try:
        built.rename(out_dir)
    except OSError:
        if out_dir.exists():
            return False
        raise
    return True


def _occupied(out_dir: Path) -> DataError:
    return DataError(f"{out_dir}: exists and is not empty; choose another folder or remove it")
