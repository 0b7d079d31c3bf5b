"""Reading objects at an address (s3://, gs://, hdfs://, http(s)://) through fsspec, as streams, with retries.

Credentials, endpoints and the like come from where the store's own tools have them (environment variables, instance
roles, fsspec's configuration), never from the address: an address ends up in logs, plans and tracking servers.
"""

import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urljoin

from .addresses import SERVER_SCHEMES, parse_address, printable
from .errors import DataError, UnavailableError, one_line

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


def join(address: str, name: str) -> str:
    """The address of the object `name` (a relative posix path) below `address`."""
    return f"{address}/{quote(name) if address.startswith('http') else name}"


def stream(address: str, size: int) -> Iterator[bytes]:
    """The bytes of one object in chunks of at most 8 MiB; a single attempt, which raises whatever the store raises.

    Args:
        size: its expected length in bytes; spares a request where the store would be asked for it.
    """
    import fsspec

    if address.startswith("http"):
        import aiohttp

        # aiohttp's own limit is five minutes for everything, too short for a shard and too long for a dead server.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_TIMEOUT_S)
        options = {"timeout": timeout, "trust_env": True, "trace_configs": [_redirect_guard()]}
        # Not by `url_to_fs`, which takes the colons of an IPv6 host for a chain of addresses.
        filesystem, path = fsspec.filesystem("http", client_kwargs=options), address
        reading: dict[str, Any] = {"block_size": 0, "size": size}  # one plain GET: not every server answers ranges
    else:
        filesystem, path = fsspec.core.url_to_fs(address)
        reading = {"block_size": CHUNK_BYTES}
    with filesystem.open(path, "rb", **reading) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def require_same_server(address: str, location: str) -> None:
    """Raise DataError if a redirect from `address` to `location` leads to another server, or away from https."""
    try:
        target = urljoin(address, location)
        before, after = (parse_address(text, SERVER_SCHEMES, "") for text in (address, target))
    except (ValueError, DataError):
        problem = "where no data set is"
    else:
        upgraded = (before.scheme, after.scheme, after.host) == ("http", "https", before.host)
        if after.origin == before.origin or upgraded:
            return
        problem = "another server; if you trust it, give that address instead"
    raise DataError(f"{printable(address)}: it redirects to {printable(location)}, {problem}")


@cache  # fsspec keeps one client per set of options
def _redirect_guard() -> Any:
    import aiohttp

    async def check(_session: object, _context: object, answer: Any) -> None:
        require_same_server(str(answer.url), answer.response.headers.get("Location", ""))

    guard = aiohttp.TraceConfig()
    guard.on_request_redirect.append(check)
    return guard


def read_object(address: str, limit: int, file: BinaryIO) -> None:
    """Write a whole object to `file`, chunk by chunk.

    Raises:
        DataError: it is not there, cannot be read, or has more than `limit` bytes.
    """

    def attempt() -> None:
        file.seek(0)
        file.truncate()
        for chunk in stream(address, limit):
            file.write(chunk)
            if file.tell() > limit:
                raise DataError(f"{address}: more than the {limit:,} bytes allowed")

    retrying(address, attempt)
    file.seek(0)


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
