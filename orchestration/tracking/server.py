"""How this package uses MLflow's client: its settings, one line for each of its errors, and waiting for a server."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ...datasets import one_line, reach_this_machine_directly
from ..errors import EngineError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Progress bars of uploads and the same two links for every trial would only fill the job's log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Our models are exported programs. A pickled one, which could run any code, is refused instead of opened.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
# MLflow's own seven retries sleep for up to two minutes each, also once the server is back; `patiently` does not.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

PATIENCE_S = 3600.0
"""Seconds for which a sweep and its trials wait for a tracking server that is away."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
"""Seconds between two attempts to reach a server that is away; each is twice the one before, up to the longest."""
TELL_AGAIN_S = 300.0
"""Seconds after which one who waits for a server is told so again."""
# What a server that is up says of a call that would fail again.
_REFUSALS = frozenset(
    {
        *("ALREADY_EXISTS", "BAD_REQUEST", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED"),
        *("INVALID_PARAMETER_VALUE", "INVALID_STATE", "MALFORMED_REQUEST", "NOT_FOUND", "NOT_IMPLEMENTED"),
        *("PERMISSION_DENIED", "RESOURCE_ALREADY_EXISTS", "RESOURCE_CONFLICT", "RESOURCE_DOES_NOT_EXIST"),
        *("RESOURCE_LIMIT_EXCEEDED", "UNAUTHENTICATED"),
    }
)
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class UnreachableError(EngineError):
    """The server does not answer, or answers that it cannot just now."""


@contextlib.contextmanager
def server_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow's client raises into an `EngineError`: one line that names the server."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        refused = getattr(error, "error_code", None) in _REFUSALS
        kind = EngineError if refused else UnreachableError
        raise kind(f"MLflow server {uri}: {one_line(error)}") from error


def patiently(uri: str, call: Callable[[], Result], patience_s: float) -> Result:
    """Call until the server answers. What is called may come twice: a server may have done what it did not confirm.

    Raises:
        UnreachableError: it did not answer for `patience_s` seconds.
        EngineError: it refuses.
    """
    pause, told, began = FIRST_PAUSE_S, 0.0, time.monotonic()
    while True:
        try:
            with server_errors(uri):
                answer = call()
        except UnreachableError as error:
            waited = time.monotonic() - began
            if waited >= patience_s:
                raise
            if not told or waited - told >= TELL_AGAIN_S:
                told = max(waited, 1e-9)
                _log.warning("%s; waiting for it, for up to %.0f s", error, patience_s)
            time.sleep(min(pause, LONGEST_PAUSE_S, patience_s))
            pause *= 2
        else:
            if told:
                _log.info("MLflow server %s answers again", uri)
            return answer


def make_client(uri: str, patience_s: float) -> MlflowClient:
    """MLflow's client; each of its calls waits for the server, and raises what `patiently` does."""
    from mlflow import MlflowClient

    reach_this_machine_directly()
    return cast(MlflowClient, _PatientClient(MlflowClient(uri), uri, patience_s))


class _PatientClient:
    def __init__(self, client: MlflowClient, uri: str, patience_s: float) -> None:
        self._client, self._uri, self._patience_s = client, uri, patience_s

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            return patiently(self._uri, lambda: method(*arguments, **named), self._patience_s)

        return call
