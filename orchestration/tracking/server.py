"""How this package uses MLflow's client: its settings, and one line for each of its errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ...datasets import one_line
from ..errors import EngineError

# Progress bars of uploads and the same two links for every trial would only fill the job's log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Our models are exported programs. A pickled one, which could run any code, is refused instead of opened.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


@contextlib.contextmanager
def server_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow's client raises into an `EngineError`: one line that names the server."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise EngineError(f"MLflow server {uri}: {one_line(error)}") from error
