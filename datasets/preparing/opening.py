"""Opening a source of images: a folder, an archive, a CSV file or a data set of torchvision."""

from pathlib import Path

from ..errors import DataError
from .archives import archive_stem, is_archive
from .csv_source import Columns, csv_source, is_csv
from .sources import Source, folder_source
from .torchvision_source import is_torchvision, torchvision_source
from .workfolder import Note, WorkFolder


def require_source(reference: str) -> None:
    """Raise DataError if there is nothing at the path that `reference` is."""
    if not is_torchvision(reference) and not Path(reference).exists():
        raise DataError(f"{reference}: no such file or folder to prepare")


def open_source(reference: str, work: WorkFolder, name: str | None, columns: Columns | None, note: Note) -> Source:
    """The source at a folder, an archive (unpacked into `work`), a .csv or torchvision:NAME@FOLDER.

    Raises:
        DataError: it is none of these, or the source itself is not in order.
    """
    if is_torchvision(reference):
        return torchvision_source(reference, name)
    path = Path(reference).absolute()  # another process may have another working directory
    if path.is_dir():
        return folder_source(path, name)
    if is_archive(path):
        return folder_source(work.unpack(path, note), name or archive_stem(path))
    if is_csv(path):
        return csv_source(path, columns, name)
    raise DataError(f"{path}: neither a folder nor a .tgz, .tar.gz, .tar or .zip archive, nor a .csv")
