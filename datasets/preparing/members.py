"""Reading which images and labels a shard holds, from the headers of its tar; the shard is not trusted.

Only images and labels are looked at; members of any other kind (.pyd, .pkl, .pth, ...) are passed over unopened.
Nothing is unpacked, so no name can lead anywhere; names that try are refused all the same.
"""

import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..decoding.images import MAX_IMAGE_BYTES, SHARD_EXTENSIONS
from ..errors import DataError

_MAX_CLASS_BYTES = 16
_MAX_TEXT_BYTES = 1024
_MAX_JSON_BYTES = 2**20
# All keys of a dataset become one array as wide as the longest.
_MAX_NAME_BYTES = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCAN_BYTES = 2**20
_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")  # gzip, bzip2, xz, zstandard


class Row(NamedTuple):
    """A sample of a shard: where its image lies in the tar, its label as text, and its WebDataset key."""

    offset: int
    size: int
    label: str
    key: str


@dataclass(frozen=True)
class LabelMember:
    """Which member of a sample holds its class: an extension, and for JSON the field in it.

    `KEY.cls` must be a number; any other text, and a field of a .json, may be a class name instead.
    """

    extension: str
    field: str | None = None

    @classmethod
    def parse(cls, text: str) -> "LabelMember":
        """From the name of an extension, such as "cls", or from "json:FIELD". Raises DataError for anything else."""
        extension, _, name = text.partition(":")
        plain = re.fullmatch(r"[a-z0-9_.]+", extension) and extension not in SHARD_EXTENSIONS
        if not plain or (extension == "json") != bool(name):
            raise DataError(f"label {text!r}: give the extension of the label's member, such as cls, or json:FIELD")
        return cls(extension, name or None)

    @property
    def max_bytes(self) -> int:
        """Largest member that is read."""
        return _MAX_JSON_BYTES if self.field else _MAX_CLASS_BYTES if self.extension == "cls" else _MAX_TEXT_BYTES

    def value(self, data: bytes) -> str:
        """The label that a member's bytes hold: digits, or a class name where there may be one.

        Raises:
            ValueError: it holds neither.
        """
        text = data.decode().strip() if self.field is None else _field(data, self.field)
        if is_class_number(text):
            return text
        if self.extension == "cls":
            raise ValueError(f"{text[:40]!r} is not a class number")
        if not text or _CONTROL.search(text) or _is_number(text):
            raise ValueError(f"{text[:40]!r} is not a class number or name")
        return text


def is_class_number(label: str) -> bool:
    """Whether a label is a number, in ASCII digits, rather than a name."""
    return re.fullmatch(r"[0-9]{1,9}", label) is not None


@dataclass
class _Members:
    """What the tar has shown of a sample so far."""

    images: list[tuple[int, int]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def read_members(path: Path, label: LabelMember) -> list[Row]:
    """The samples of one tar, in the order of their images.

    Raises:
        DataError: damaged, truncated or compressed; a name that leads out of a folder; an image or label that is no
            plain file, is empty, too large or not of the right kind; samples that are not one image and one label.
    """
    samples: dict[str, _Members] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            before = -1
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header of a large shard
                if member.offset_data <= before or member.size < 0:
                    raise DataError(f"{path}: damaged tar (the size of {member.name!r} leads back); write it again")
                before = member.offset_data
                _take(path, tar, member, label, samples)
            _require_end(path, file, tar.offset)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # tarfile raises ValueError, OverflowError, RecursionError, ... on made-up headers
        with path.open("rb") as file:
            hint = "; it is compressed, unpack it" if file.read(2) in _COMPRESSED else ""
        raise DataError(f"{path}: damaged or truncated tar ({error}){hint or '; copy or write it again'}") from error
    return sorted(_row(path, key, members) for key, members in samples.items())


def _take(
    path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, label: LabelMember, samples: dict[str, _Members]
) -> None:
    name = member.name
    if name.startswith("/") or ".." in name.split("/") or _CONTROL.search(name):
        raise DataError(f"{path}: unsafe member {name!r}; do not use shards of this origin")
    folder, _, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")  # webdataset's rule: the key ends at the first dot of the name
    extension = extension.lower()
    if not dot or not stem or member.isdir() or extension not in SHARD_EXTENSIONS | {label.extension}:
        return
    key = f"{folder}/{stem}" if folder else stem
    where = f"{path}: sample {key}"
    if not member.isreg() or member.issparse():
        raise DataError(f"{where}: its .{extension} is a link, device or sparse file; write the shard again")
    if len(name.encode(errors="surrogateescape")) > _MAX_NAME_BYTES:
        raise DataError(f"{path}: sample {key[:40]}...: a name of more than {_MAX_NAME_BYTES} bytes; shorten it")
    of_key = samples.setdefault(key, _Members())
    if extension != label.extension:
        if not 0 < member.size <= MAX_IMAGE_BYTES:
            raise DataError(f"{where}: an image of {member.size:,} bytes; 1 to {MAX_IMAGE_BYTES:,} are allowed")
        of_key.images.append((member.offset_data, member.size))
        return
    try:
        if member.size > label.max_bytes or (content := tar.extractfile(member)) is None:
            raise ValueError(f"{member.size:,} bytes are not a class number or name")
        of_key.labels.append(label.value(content.read()))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its .{extension} is not a label: {error}; write the shard again") from error


def _row(path: Path, key: str, members: _Members) -> Row:
    if len(members.images) != 1 or len(members.labels) != 1:
        counts = f"{len(members.images)} images and {len(members.labels)} labels"
        raise DataError(f"{path}: sample {key} has {counts} instead of one of each; write the shard again")
    return Row(*members.images[0], members.labels[0], key)


def _require_end(path: Path, file: BinaryIO, offset: int) -> None:
    """tarfile takes a damaged header, or the end of the file between two members, for the end of the archive."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(f"{path}: damaged or truncated tar (it has no end); copy or write it again")
    while block:
        if block.count(0) != len(block):
            raise DataError(f"{path}: damaged tar (no header at byte {offset:,}, but data); copy or write it again")
        block = file.read(_SCAN_BYTES)


def _field(data: bytes, name: str) -> str:
    document: Any = json.loads(data)
    if not isinstance(document, dict) or name not in document:
        raise ValueError(f"no field {name!r}")
    value = document[name]
    if type(value) not in (int, str):  # not isinstance: true is no label
        raise ValueError(f"its {name} is {str(value)[:40]!r}")
    return str(value).strip()


def _is_number(text: str) -> bool:
    """Whether a would-be class name is a number that no class can have: -1, 1.5, nan, 10^12."""
    try:
        float(text)
    except ValueError:
        return False
    return True
