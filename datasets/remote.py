"""Reading objects at an address (s3://, gs://, hdfs://, http(s)://) through fsspec, as streams, with retries.

Credentials, endpoints and the like come from where the store's own tools have them (environment variables, instance
roles, fsspec's configuration), never from the address: an address ends up in logs, plans and tracking servers.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from .errors import DataError, UnavailableError, one_line

SCHEMES = ("s3", "gs", "hdfs", "http", "https")
CHUNK_BYTES = 8 * 2**20
_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CONNECT_TIMEOUT_S = 30.0
_SILENCE_TIMEOUT_S = 60.0
# Answers that another attempt will not change; 408 and 429 ask for one.
_RETRIED_CLIENT_ERRORS = (408, 429)
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError)
# Not `random`'s shared generator: drawing from it would change what a seeded program sees.
_jitter = random.Random()

Result = TypeVar("Result")


class Cancelled(Exception):
    """Reading was given up because nobody needs the result any more."""


def is_address(ref: str) -> bool:
    """Whether `ref` names something by its scheme (a://b, a::b or pipe:x) rather than a local path."""
    return "://" in ref or "::" in ref or re.match(r"\s*pipe:", ref) is not None


def checked_address(ref: str) -> str:
    """`ref` without a trailing slash, if it is an address that is read; nothing is contacted.

    Raises:
        DataError: another scheme (`pipe:` would run a shell command), or a user, password or query in the address.
    """
    parts = urlsplit(ref)
    if parts.scheme not in SCHEMES or "::" in ref or not parts.netloc:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise DataError(f"{ref}: not an address that can be read; use a local folder or one of {known}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise DataError(f"{bare}: give the address without user, password or query; credentials go into environment")
    return ref.rstrip("/")


def join(address: str, name: str) -> str:
    """The address of the object `name` (a relative posix path) below `address`."""
    return f"{address}/{quote(name) if address.startswith('http') else name}"


def stream(address: str, size: int) -> Iterator[bytes]:
    """The bytes of one object in chunks of at most 8 MiB; a single attempt, which raises whatever the store raises.

    Args:
        size: its expected length in bytes; spares a request where the store would be asked for it.
    """
    import fsspec

    options: dict[str, Any] = {}
    reading: dict[str, Any] = {"block_size": CHUNK_BYTES}
    if address.startswith("http"):
        import aiohttp

        # aiohttp's own limit is five minutes for everything, too short for a shard and too long for a dead server.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_TIMEOUT_S)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        reading = {"block_size": 0, "size": size}  # one plain GET: not every server answers ranges
    filesystem, path = fsspec.core.url_to_fs(address, **options)
    with filesystem.open(path, "rb", **reading) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def read_object(address: str, limit: int) -> bytes:
    """A whole small object.

    Raises:
        DataError: it is not there, cannot be read, or has more than `limit` bytes.
    """

    def attempt() -> bytes:
        parts, total = [], 0
        for chunk in stream(address, limit):
            parts.append(chunk)
            total += len(chunk)
            if total > limit:
                raise DataError(f"{address}: more than the {limit:,} bytes allowed")
        return b"".join(parts)

    return retrying(address, attempt)


def retrying(address: str, attempt: Callable[[], Result]) -> Result:
    """Call `attempt` up to eight times, pausing 0.5 s to 30 s between, until it does not fail for the moment's reasons.

    Connection errors, time-outs, short reads and 5xx answers are such reasons; a missing object or a refusal is not.

    Raises:
        DataError: names the address and the last reason; an `UnavailableError` if that may pass.
    """
    for number in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except Exception as error:  # every store has exceptions of its own, many of them no OSError
            if isinstance(error, DataError | Cancelled):
                raise
            if isinstance(error, ImportError):
                hint = "pip install 'effnet-cluster[remote]'"
                raise DataError(f"{address}: {_line(error)}; install what reads it: {hint}") from error
            if _is_final(error) or number == _ATTEMPTS:
                tried = f" (tried {number} times)" if number > 1 else ""
                kind = DataError if _is_final(error) else UnavailableError
                raise kind(f"{address}: cannot be read: {_line(error)}{tried}") from error
        pause = min(_FIRST_PAUSE_S * 2 ** (number - 1), _LONGEST_PAUSE_S)
        time.sleep(pause * _jitter.uniform(0.5, 1.0))  # so that a thousand ranks do not come back at once
    raise AssertionError("unreachable")


def _is_final(error: Exception) -> bool:
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _RETRIED_CLIENT_ERRORS
    return refused or isinstance(error, _FINAL)


def _line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    kind, line = type(error).__name__, one_line(error)
    return line if line == kind else f"{kind}: {line}"
