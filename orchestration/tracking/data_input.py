"""The data set of a run as MLflow's input of it, by which its web page finds and groups runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from .runs import Tracker

# The server's limits, in characters.
_MOST_DIGEST, _MOST_NAME = 36, 500


def log_data(tracker: Tracker, run_id: str, name: str, address: str, digest: str, sizes: Mapping[str, int]) -> None:
    """Note which data a run uses. Noted again, the same data are one input.

    Args:
        tracker: of the run's experiment.
        run_id: the run's.
        name: of the data set.
        address: where it is.
        digest: of its manifest, of which MLflow takes the beginning.
        sizes: what there is of it, by name.

    Raises:
        EngineError: the server cannot be reached or refuses.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind = urlsplit(address).scheme if "://" in address else "local"
    data = Dataset(
        name=name[:_MOST_NAME],
        digest=digest[:_MOST_DIGEST],
        source_type="http" if kind == "https" else kind,
        source=json.dumps({"url" if kind.startswith("http") else "uri": address}),
        profile=json.dumps(sizes),
    )
    # Its key is MLflow's own: what the page says the data were used for.
    used_for = InputTag("mlflow.data.context", "train, val")
    tracker.client.log_inputs(run_id, datasets=[DatasetInput(data, [used_for])])
