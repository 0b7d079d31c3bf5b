"""Reading which images and labels a shard holds, from the headers of its tar; the shard is not trusted.

Only images and labels are looked at; members of any other kind (.pyd, .pkl, .pth, ...) are ignored unopened, and named.
Nothing is unpacked, so no name can lead anywhere; names that try are refused all the same.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..decoding.images import MAX_IMAGE_BYTES, SHARD_EXTENSIONS
from ..errors import DataError
from .names import is_hidden, is_system, printable
from .tree import HIDDEN, SYSTEM

_MAX_CLASS_BYTES = 16
_MAX_TEXT_BYTES = 1024
_MAX_JSON_BYTES = 2**20
# All keys of a dataset become one array as wide as the longest.
_MAX_NAME_BYTES = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_EXTENSION = re.compile(r"[a-z0-9_]{1,12}")
_SCAN_BYTES = 2**20
_SHOWN_MEMBERS = 3
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

    def __str__(self) -> str:
        """As messages name it: ".cls", or "json:FIELD"."""
        return f".{self.extension}" if self.field is None else f"{self.extension}:{self.field}"

    @property
    def max_bytes(self) -> int:
        """Largest member that is read."""
        return _MAX_JSON_BYTES if self.field else _MAX_CLASS_BYTES if self.extension == "cls" else _MAX_TEXT_BYTES

    def value(self, data: bytes) -> str:
        """The label that a member's bytes hold: digits, or a class name where there may be one.

        Raises:
            ValueError: it holds neither.
        """
        text = data.decode("utf-8-sig").strip() if self.field is None else _field(data, self.field)
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


class ShardMembers(NamedTuple):
    """What a tar holds: its samples, in the order of their images, and the names of all other members by kind.

    Kinds are "folder", "hidden", "left by a system", an extension such as ".txt", and "extra .png" for an image beside
    that of a sample.
    """

    rows: list[Row]
    ignored: dict[str, list[str]]


def read_members(path: Path, label: LabelMember) -> list[Row]:
    """The samples of one tar; see `read_shard`."""
    return read_shard(path, label).rows


def read_shard(path: Path, label: LabelMember) -> ShardMembers:
    """The members of one tar: each is part of a sample, or ignored, or the tar is refused.

    As in webdataset, a sample's key ends at the first dot of a name. Where what follows is more than an extension, as
    in IMG_1.2.jpg, a key that ends at the last dot and has an image and a label is a sample too. If it has only
    one kind, and a shorter key is a sample, it belongs to that one: a.seg.png is an extra of the sample a.

    Raises:
        DataError: damaged, truncated or compressed; a name that leads out of a folder; an image or label that is no
            plain file, is empty, too large or not of the right kind; one that belongs to no sample of one image and
            one label.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            scan, before = _Scan(path, label), -1
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header of a large shard
                if member.offset_data <= before or member.size < 0:
                    raise DataError(f"{path}: damaged tar (the size of {member.name!r} leads back); write it again")
                before = member.offset_data
                scan.take(member)
            _require_end(path, file, tar.offset)
            return ShardMembers(sorted(scan.rows(file)), scan.ignored)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # tarfile raises ValueError, OverflowError, RecursionError, ... on made-up headers
        with path.open("rb") as file:
            hint = "; it is compressed, unpack it" if file.read(2) in _COMPRESSED else ""
        raise DataError(f"{path}: damaged or truncated tar ({error}){hint or '; copy or write it again'}") from error


class _Member(NamedTuple):
    """An image or a label in the tar, and what is wrong with it, if anything."""

    name: str
    offset: int
    size: int
    problem: str


@dataclass
class _Members:
    """What the tar has shown of a sample so far."""

    images: list[_Member] = field(default_factory=list)
    labels: list[_Member] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return len(self.images) == len(self.labels) == 1


class _Scan:
    """Sorts the members of a tar into samples and what is ignored."""

    def __init__(self, path: Path, label: LabelMember) -> None:
        self.ignored: dict[str, list[str]] = {}
        self._path = path
        self._label = label
        # The longest first: a label's may have dots, and end in another one.
        self._endings = sorted(SHARD_EXTENSIONS | {label.extension}, key=len, reverse=True)
        # Keys that end at the first dot of a name, and those that end at the last one of several.
        self._plain: dict[str, _Members] = {}
        self._dotted: dict[str, _Members] = {}

    def take(self, member: tarfile.TarInfo) -> None:
        """Sort one member in. Raises DataError if it cannot be a part of a sample, and is meant to."""
        name = member.name
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or _CONTROL.search(name):
            raise DataError(f"{self._path}: unsafe member {name!r}; do not use shards of this origin")
        if member.isdir():
            self._ignore("folder", name)
        elif any(map(is_system, parts)):
            self._ignore(SYSTEM, name)
        elif any(is_hidden(part) for part in parts if part != "."):
            self._ignore(HIDDEN, name)
        elif (named := self._named(name)) is None:
            self._ignore(_kind(name), name)
        else:
            self._add(member, *named)

    def rows(self, file: BinaryIO) -> Iterator[Row]:
        """The samples; labels are read from `file`. Raises DataError for an image or a label that belongs to none."""
        for key, members in self._plain.items():
            yield self._row(key, members, file)
        for key, members in self._dotted.items():
            if not members.whole and not (members.images and members.labels) and self._is_extra(key):
                for member in (*members.images, *members.labels):
                    self._ignore(f"extra {_kind(member.name)}", member.name)
            else:
                yield self._row(key, members, file)

    def _ignore(self, kind: str, name: str) -> None:
        self.ignored.setdefault(kind, []).append(name)

    def _named(self, name: str) -> tuple[str, str, bool] | None:
        """(key, extension, whether the key ends at the first dot) of an image or a label; None for other members."""
        folder, slash, base = name.rpartition("/")
        stem, _, extension = base.partition(".")
        if extension.lower() in self._endings:
            return f"{folder}{slash}{stem}", extension.lower(), True
        for ending in self._endings:
            if base.lower().endswith(f".{ending}"):
                return name[: -len(ending) - 1], ending, False
        return None

    def _add(self, member: tarfile.TarInfo, key: str, extension: str, plain: bool) -> None:
        is_label = extension == self._label.extension
        problem = ""
        if not member.isreg() or member.issparse():
            problem = f"its .{extension} is a link, device or sparse file; write the shard again"
        elif not is_label and not 0 < member.size <= MAX_IMAGE_BYTES:
            problem = f"an image of {member.size:,} bytes; 1 to {MAX_IMAGE_BYTES:,} are allowed"
        if problem and plain:
            raise DataError(f"{self._path}: sample {printable(key)}: {problem}")
        if len(member.name.encode(errors="surrogateescape")) > _MAX_NAME_BYTES:
            many = f"a name of more than {_MAX_NAME_BYTES} bytes; shorten it"
            raise DataError(f"{self._path}: sample {printable(key[:40])}...: {many}")
        of_key = (self._plain if plain else self._dotted).setdefault(key, _Members())
        found = _Member(member.name, member.offset_data, member.size, problem)
        (of_key.labels if is_label else of_key.images).append(found)

    def _is_extra(self, key: str) -> bool:
        """Whether a shorter key, one that ends at an earlier dot of the name, is a whole sample."""
        folder, slash, base = key.rpartition("/")
        words = base.split(".")
        shorter = (f"{folder}{slash}{'.'.join(words[:count])}" for count in range(1, len(words)))
        return any(of[k].whole for k in shorter for of in (self._plain, self._dotted) if k in of)

    def _row(self, key: str, members: _Members, file: BinaryIO) -> Row:
        where = f"{self._path}: sample {printable(key)}"
        if not members.whole:
            counts = f"{len(members.images)} images and {len(members.labels)} labels"
            names = ", ".join(printable(one.name) for one in (*members.images, *members.labels)[:_SHOWN_MEMBERS])
            raise DataError(f"{where} has {counts} instead of one of each ({names}); write the shard again")
        (image,), (label,) = members.images, members.labels
        if problem := image.problem or label.problem:
            raise DataError(f"{where}: {problem}")
        try:
            if label.size > self._label.max_bytes:
                raise ValueError(f"{label.size:,} bytes are not a class number or name")
            file.seek(label.offset)
            text = self._label.value(file.read(label.size))
        except (ValueError, RecursionError) as error:
            named = f"its .{self._label.extension} is not a label"
            raise DataError(f"{where}: {named}: {error}; write the shard again") from error
        return Row(image.offset, image.size, text, key)


def _kind(name: str) -> str:
    """What a member is called in an account: its last extension."""
    _, dot, extension = name.rpartition("/")[2].lower().rpartition(".")
    return f".{extension}" if dot and _PLAIN_EXTENSION.fullmatch(extension) else "other"


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
