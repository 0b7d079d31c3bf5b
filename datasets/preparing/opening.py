"""Opening a source of images: a folder, an archive, a CSV file or a data set of torchvision."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from .archives import ARCHIVE_SUFFIXES, archive_stem, is_archive
from .csv_source import Columns, csv_source, is_csv
from .layout import Splits
from .metadata_source import has_metadata, metadata_source
from .names import is_hidden, is_system, split_called
from .sources import Source, folder_source
from .torchvision_source import is_torchvision, torchvision_source
from .workfolder import Note, WorkFolder


@dataclass(frozen=True)
class Understanding:
    """What a user says about a source that does not say it itself.

    Attributes:
        splits: which folders are splits (see `layout.understand`); default: those that are called so.
        columns: of a .csv.
        name_encoding: of the names in a .zip, such as gbk; default: UTF-8.
    """

    splits: Splits | None = None
    columns: Columns | None = None
    name_encoding: str | None = None


def require_source(reference: str) -> None:
    """Raise DataError if there is nothing at the path that `reference` is."""
    if not is_torchvision(reference) and not Path(reference).exists():
        raise DataError(f"{reference}: no such file or folder to prepare")


def open_source(reference: str, work: WorkFolder, name: str | None, meaning: Understanding, note: Note) -> Source:
    """The source at a folder, an archive (unpacked into `work`), a .csv or torchvision:NAME@FOLDER.

    Raises:
        DataError: it is none of these, or the source itself is not in order.
    """
    listed = is_torchvision(reference) or is_csv(Path(reference))
    if listed and meaning.splits is not None:
        raise DataError(f"{reference}: --splits names folders; here the splits are given, a .csv has a column for them")
    if is_torchvision(reference):
        return torchvision_source(reference, name)
    path = Path(reference).absolute()  # another process may have another working directory
    if path.is_dir():
        return _folder(path, name, meaning)
    if is_archive(path):
        left = work.unpack(path, meaning.name_encoding, note)
        source = _folder(work.unpacked, name or archive_stem(path), meaning)
        ignored = {**source.ignored, **{why: tuple(files) for why, files in left.items() if files}}
        return replace(source, ignored=ignored)
    if is_csv(path):
        return csv_source(path, meaning.columns, name, note)
    kinds = ", ".join(ARCHIVE_SUFFIXES)
    raise DataError(f"{path}: neither a folder nor an archive ({kinds}), nor a .csv; unpack other archives first")


def _folder(path: Path, name: str | None, meaning: Understanding) -> Source:
    if meaning.splits is None and (root := _with_metadata(path, meaning.columns)) is not None:
        return metadata_source(root, meaning.columns, name or path.resolve().name)
    return folder_source(path, name, meaning.splits)


def _with_metadata(folder: Path, columns: Columns | None) -> Path | None:
    """The first folder with Hugging Face's metadata, down from `folder` through those that only hold another one."""
    while not has_metadata(folder, columns):
        inside = [path for path in _visible_folders(folder) if split_called(path.name) is None]
        if len(inside) != 1:
            return None
        folder = inside[0]
    return folder


def _visible_folders(root: Path) -> list[Path]:
    """The sub-folders of `root`, without links, hidden ones and those left behind by a system."""
    return [
        path
        for path in root.iterdir()
        if path.is_dir() and not path.is_symlink() and not is_hidden(path.name) and not is_system(path.name)
    ]
