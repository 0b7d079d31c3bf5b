"""Addresses, read in one place: of data sets, of folders and of the servers of Ray and MLflow. Nothing is contacted."""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

from .errors import DataError

DATA_SCHEMES = ("s3", "gs", "hdfs", "http", "https")
SERVER_SCHEMES = ("http", "https")
_MAX_CHARACTERS = 2048
_SHOWN_CHARACTERS = 200
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Python's parser would drop some of these without a word.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")
_SECRET = re.compile(r"^(\w[\w+.-]*://)[^/?#]*@|[?#].*$", re.DOTALL)


class Address(NamedTuple):
    """A checked address: `text` as given without slashes at its end; host without brackets, port None if not given."""

    text: str
    scheme: str
    host: str
    port: int | None

    @property
    def origin(self) -> tuple[str, str, int | None]:
        """What two addresses of one server have in common: scheme, host and port."""
        return self.scheme, self.host, self.port or _DEFAULT_PORTS.get(self.scheme)


def is_address(ref: str) -> bool:
    """Whether `ref` names something by its scheme (a://b, a::b or pipe:x) rather than a local path."""
    return "://" in ref or "::" in ref or re.match(r"\s*pipe:", ref) is not None


def parse_address(text: str, schemes: Collection[str], expected: str) -> Address:
    """Parse an address with a host.

    Args:
        text: may come from anywhere.
        schemes: those that are accepted.
        expected: completes the error: "not an address that can be read; expected ...".

    Raises:
        DataError: it is none, or absurd; one line, without user, password or query.
    """
    shown = printable(text)
    if len(text) > _MAX_CHARACTERS:
        raise DataError(f"{shown}: {len(text):,} characters; an address has at most {_MAX_CHARACTERS:,}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        if parts.scheme in SERVER_SCHEMES:
            _require_host(host)
    except ValueError as error:  # brackets, ports and hosts that are none
        raise DataError(
            f"{shown}: not an address that can be read ({_printable(str(error))[:80]}); {expected}"
        ) from None
    if parts.scheme not in schemes or not host or port == 0 or _CONTROL.search(text) or _is_chained(parts):
        raise DataError(f"{shown}: not an address that can be read; {expected}")
    return Address(text.rstrip("/"), parts.scheme, host, port)


def checked_address(ref: str) -> str:
    """`ref` without slashes at its end, if it is the address of a data set that can be read.

    Raises:
        DataError: another scheme (`pipe:` would run a shell command), or a user, password or query in the address.
    """
    known = ", ".join(f"{scheme}://" for scheme in DATA_SCHEMES)
    address = parse_address(ref, DATA_SCHEMES, f"use a local folder or one of {known}")
    parts = urlsplit(ref)
    if "@" in parts.netloc or parts.query or parts.fragment:
        problem = "give the address without user, password or query; credentials go into environment"
        raise DataError(f"{printable(ref)}: {problem}")
    return address.text


def server_address(text: str, expected: str) -> str:
    """`text` without slashes at its end, if it is the address of a web server.

    Args:
        text: may come from anywhere.
        expected: see `parse_address`.

    Raises:
        DataError: it is none.
    """
    address = parse_address(text, SERVER_SCHEMES, expected)
    if "?" in text or "#" in text:
        raise DataError(f"{printable(text)}: not an address that can be read; {expected}")
    return address.text


def folder_of(ref: str) -> str:
    """The local path of a file:// address. Raises DataError if it is none of this machine."""
    try:
        parts = urlsplit(ref)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path or _CONTROL.search(ref):
        raise DataError(f"{printable(ref)}: no folder of this machine; write file:///FOLDER")
    return url2pathname(parts.path)


def printable(text: str) -> str:
    """An address for an error message: one short line without user, password or query."""
    return _printable(_SECRET.sub(r"\1", text[:_MAX_CHARACTERS]))


def _printable(text: str) -> str:
    plain = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return plain if len(plain) <= _SHOWN_CHARACTERS else f"{plain[:_SHOWN_CHARACTERS]}…"


def _require_host(host: str) -> None:
    """Raise ValueError unless `host` is a name or an IP address."""
    if ":" in host:
        ip_address(host)
    elif not re.fullmatch(r"[^\s%\\]*", host) or len(host.encode("idna")) > 253:
        raise ValueError(f"{host!r} is no host")


def _is_chained(parts: SplitResult) -> bool:
    """Whether fsspec would see several addresses in one, as in simplecache::s3://x; IPv6 has colons of its own."""
    return "::" in parts.scheme or "::" in re.sub(r"\[[^\]]*\]", "", parts.netloc) or "::" in parts.path
