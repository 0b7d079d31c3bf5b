"""Preparing a dataset from a source, whole or not at all; and opening a prepared one by its name."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..addresses import checked_address, folder_of, is_address
from ..errors import DataError
from ..manifest import MANIFEST_FILE, Manifest
from ..philox import require_word
from ..reading.cache import default_limit
from .account import ACCOUNT_FILE, Account
from .archives import archive_stem, is_archive
from .assemble import (
    DuplicatesCallback,
    PreparingProgress,
    ProgressCallback,
    ShardSettings,
    build,
    with_validation,
    without_duplicates,
)
from .opening import Understanding, open_source, require_source
from .processes import Mapper, serially
from .reencode import Reencoding
from .shards import BYTES_PER_SHARD, SAMPLES_PER_SHARD, require_limits
from .sources import digits_source, looks_like_classes, require_fraction
from .workfolder import Note, occupied, publish, require_free, resolved, working_aside, working_on

__all__ = ["DIGITS", "PreparingProgress", "open_dataset", "prepare", "prepare_digits"]

DIGITS = "digits"
_DIGITS_FOLDER = "digits-v1"
_DIGITS_PER_SHARD = 256
_SHARDS_FOLDER = "shards"

AccountCallback = Callable[[Account], None]


def prepare(
    source: str | Path,
    out_dir: Path,
    *,
    name: str | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    bytes_per_shard: int = BYTES_PER_SHARD,
    reencoding: Reencoding | None = None,
    understanding: Understanding | None = None,
    class_map: Mapping[str, str] | None = None,
    one_class: bool = False,
    skip_damaged: bool = False,
    pixel_duplicates: bool = False,
    drop_duplicates: bool = False,
    mirror_safe: bool = True,
    mapper: Mapper = serially,
    progress: ProgressCallback | None = None,
    note: Note | None = None,
    report: DuplicatesCallback | None = None,
    accounted: AccountCallback | None = None,
) -> Manifest:
    """Write a source as shards and manifest into `out_dir`, with an account of what became of each file.

    The work is done in a folder beside `out_dir` that is renamed at the end, so `out_dir` is complete or untouched.
    Once a shard is finished that folder is kept when the work is killed, interrupted or fails, and the next call goes
    on from there. The same images and settings give the same manifest digest on every machine and with every mapper
    (with `reencoding`: on every one with the same release of Pillow).

    Args:
        source: ROOT/CLASS/*.jpg or ROOT/SPLIT/CLASS/*.jpg; a tar (also compressed) or .zip of either; a .csv (see
            `csv_source`); or torchvision:NAME@FOLDER (see `torchvision_source`).
        name: dataset name; default: that of the source.
        val_fraction: part of each class for validation, where the source has no splits of its own.
        seed: of the validation split and of the order in which samples are written.
        samples_per_shard, bytes_per_shard: a shard ends at whichever comes first, by the sizes of the source's files.
        reencoding: makes large images smaller; default: every image is stored as it is.
        understanding: what the source itself does not say.
        class_map: new class names by those of the source, in the order of the labels (see `Source.mapped`).
        one_class: whether a single class is what is meant.
        skip_damaged: leave images out that cannot be used, rather than stop when all have been found.
        pixel_duplicates: look for equal images by their pixels too, not only by their bytes; decodes every image in
            full, which takes about three times as long.
        drop_duplicates: leave out of "train" what is in "val" or "test" too; reads every image twice.
        mirror_safe: whether mirrored images keep their class.
        mapper: where shards are built; default: one after the other in this process (see `processes`).
        progress: called with `PreparingProgress` after every shard.
        note: told in a line when work is kept for later, or earlier work is not used.
        report: called with the images that are there more than once.
        accounted: called with the account, which is also written beside the manifest (`account.json`).

    Raises:
        DataError: `out_dir` exists and is not empty, or is being prepared by another process; the source is missing,
            damaged or not of these forms; or the disk is full.
    """
    source, out_dir, note = str(source), resolved(out_dir), note or _unheard
    # Before an archive is unpacked for minutes, everything that can be wrong with the call.
    require_fraction(val_fraction)
    require_word("seed", seed)
    require_limits(samples_per_shard, bytes_per_shard)
    require_source(source)
    require_free(out_dir)
    settings = ShardSettings(seed, samples_per_shard, bytes_per_shard, reencoding, pixel_duplicates)
    with working_on(out_dir, note) as work, _named_after(source, work.unpacked):
        found = open_source(source, work, name, understanding or Understanding(), note)
        if class_map is not None:
            found = found.mapped(class_map)
        if len(found.classes) == 1 and not one_class:
            problem = f"a single class, {found.classes[0]!r}, is nothing to tell apart"
            raise DataError(f"{source}: {problem}; give the folder of the class folders, or allow it (--one-class)")
        found = with_validation(found, val_fraction, seed, pixel_duplicates, mapper, progress)
        if drop_duplicates:
            found = without_duplicates(found, pixel_duplicates, mapper, progress)
        built = build(found, work, settings, mirror_safe, mapper, progress, note, skip_damaged=skip_damaged)
        if report is not None:
            report(built.duplicates)
        roots = (str(work.unpacked), str(Path(source).absolute()))
        account = Account(
            samples={split: len(of_split) for split, of_split in built.manifest.splits.items()},
            ignored={why: tuple(_below(roots, file) for file in files) for why, files in found.ignored.items()},
            damaged={_below(roots, file): _below(roots, why) for file, why in built.damaged.items()},
        )
        account.save(work.built / ACCOUNT_FILE)
        if accounted is not None:
            accounted(account)
        built.manifest.save()
        if not publish(work, out_dir):
            raise occupied(out_dir)
    return Manifest.load(out_dir)


def _below(roots: Sequence[str], text: str) -> str:
    """A file's name, or a line about it, relative to the source."""
    for root in roots:
        text = text.removeprefix(f"{root}/")
    return text


def prepare_digits(out_dir: Path, *, progress: ProgressCallback | None = None) -> Manifest:
    """Write the embedded digits (see `digits_source`) into `out_dir`: 80 % train, 20 % val, always the same split.

    Raises:
        DataError: `out_dir` exists and is not empty, or cannot be written.
    """
    out_dir = resolved(out_dir)
    require_free(out_dir)
    if not _build_digits(out_dir, progress):
        raise occupied(out_dir)
    return Manifest.load(out_dir)


def open_dataset(ref: str, cache_root: Path, cache_limit: int | None = None, *, typed: bool = True) -> Manifest:
    """The manifest that a user means: the word "digits", or a folder or address that holds what `prepare` has written.

    "digits" is written to `cache_root/digits-v1` the first time; any number of processes may ask for it at once.

    Args:
        ref: "digits", a folder (also as file://FOLDER, read in place), or an address s3://, gs://, hdfs://, http(s)://,
            whose shards are fetched into `cache_root/shards` while they are read.
        cache_limit: bytes of remote shards kept on this node; default: 32 GiB, or 80 % of what the disk has.
        typed: whether a person has written `ref` here, who may mean a folder called digits. False for what a record
            says: there, a folder has its absolute path.

    Raises:
        DataError: nothing is there, or it is not prepared yet; the message says which command prepares it. Or "digits"
            was typed where there is a folder of that name.
    """
    if ref == DIGITS:
        if typed:
            _require_no_folder_of_digits()
        return _open_digits(Path(cache_root).absolute() / _DIGITS_FOLDER)
    if ref.startswith("file://"):
        ref = folder_of(ref)
    elif is_address(ref):
        address, shards = checked_address(ref), Path(cache_root).absolute() / _SHARDS_FOLDER
        return Manifest.load_remote(address, shards, cache_limit or default_limit(shards))
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


def _require_no_folder_of_digits() -> None:
    # A file is no data set. A link that leads nowhere may be one to a disk that is not there now.
    if os.path.lexists(DIGITS) and not Path(DIGITS).is_file():
        raise DataError(
            f"{DIGITS}: ambiguous, as {Path.cwd()} has a folder of that name; write ./{DIGITS} for the folder, or run "
            "the command from another folder for the digits that come with the package"
        )


def _open_digits(folder: Path) -> Manifest:
    if not (folder / MANIFEST_FILE).exists():
        # Another process may be faster: then its copy is there, with the same bytes, and ours is dropped.
        _build_digits(folder, None)
    try:
        return Manifest.load(folder)
    except DataError as error:
        raise DataError(
            f"{folder}: the stored copy of the digits is damaged; remove that folder and try again"
        ) from error


def _build_digits(folder: Path, progress: ProgressCallback | None) -> bool:
    """Build the digits in a folder of this process's own, and publish them unless another process has done so."""
    source = digits_source().with_validation(0.2, seed=0)
    settings = ShardSettings(0, _DIGITS_PER_SHARD, BYTES_PER_SHARD, None, False)
    with working_aside(folder) as work:
        built = build(source, work, settings, False, serially, progress, _unheard, skip_damaged=False)
        built.manifest.save()
        return publish(work, folder)


@contextmanager
def _named_after(source: str, unpacked: Path) -> Iterator[None]:
    """Name files in errors as members of the archive: where they were unpacked is gone when a person reads it."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(unpacked), source)) from error


def _unheard(line: str) -> None:
    """The listener of a caller that wants no notes."""
