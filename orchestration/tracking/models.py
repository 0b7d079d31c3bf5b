"""Trained models in MLflow: logging, registering and downloading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...datasets import one_line, reach_this_machine_directly
from ..errors import UserError
from ..training.metrics import EPOCH, MODEL_TOP1
from . import tags
from .runs import Tracker
from .server import patiently, server_errors

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.models.model import ModelInfo
    from numpy.typing import NDArray
    from torch import Tensor, nn

_CHAMPION = "champion"
_NAME = "model"
_RUNS = "runs:/"
# How MLflow says that a name, a version, an alias or a run is not there.
_NOT_FOUND = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})


def log_model(
    tracker: Tracker,
    run_id: str,
    model: nn.Module,
    example: NDArray[np.uint8],
    top1: float,
    facts: Mapping[str, Any],
) -> str:
    """Log a model to a run as an exported program that needs no code of ours to be loaded; returns its address.

    A run that has a model keeps it unless this one is better: a worker may be lost right after it has logged one, and a
    trial that got more epochs may have found no better one. What is replaced stays in MLflow, but is not the run's.

    Args:
        tracker: where to.
        run_id: the trial's run.
        model: takes uint8 images (N, H, W, 3), returns float32 (N, classes); evaluating, on the CPU.
        example: uint8 images (N ≥ 2, H, W, 3).
        top1: the model's validation top-1, a fraction, noted with the model.
        facts: JSON-safe values that are kept with the model, see `ModelFacts`.

    Raises:
        EngineError: the server cannot be reached or refuses.
    """
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    data = tracker.client.get_run(run_id).data
    known = data.tags.get(tags.MODEL_URI)
    if known and top1 <= data.metrics.get(MODEL_TOP1, 1.0):
        return str(known)
    with torch.inference_mode():
        classes = model(torch.from_numpy(example)).shape[1]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )

    def publish() -> ModelInfo:
        mlflow.set_tracking_uri(tracker.uri)
        # `Model.log` files the model under the process's experiment, not under the run's.
        mlflow.set_experiment(experiment_id=tracker.experiment_id)
        return Model.log(
            artifact_path=None,
            name=_NAME,
            flavor=mlflow.pytorch,
            run_id=run_id,
            pytorch_model=model,
            signature=signature,
            input_example=example,
            metadata=dict(facts),
            serialization_format="pt2",
            validate_serving_input=False,  # MLflow would load the model again, for as long as it took to export it
            # Given, so that MLflow does not load the model in another process to find them.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        )

    info = patiently(tracker.uri, publish, tracker.patience_s)
    # Not under the name of the run's curve, which would gain a second point at a step that it has.
    epochs = int(data.metrics.get(EPOCH, 0))
    tracker.client.log_metric(run_id, MODEL_TOP1, top1, step=epochs, model_id=info.model_id)
    tracker.client.set_tag(run_id, tags.MODEL_URI, info.model_uri)
    return str(info.model_uri)


def register_champion(tracker: Tracker, run_id: str, model_uri: str) -> str:
    """Register a run's model under the experiment's name with the alias `champion`; returns its `models:/…`.

    A model that is registered already gets no second version.

    Args:
        tracker: of the run's experiment.
        run_id: the trial's run.
        model_uri: what `log_model` returned.

    Raises:
        EngineError: the server cannot be reached or refuses.
        NameTakenError: the server has a registered model of that name, which is another experiment's.
    """
    client, name = tracker.client, tracker.experiment
    if not tracker.check_model_name():
        client.create_registered_model(name, tags={tags.UID: tracker.uid})
    versions = client.search_model_versions(f"name='{name}'")
    version = next((v for v in versions if v.source == model_uri), None)
    if version is None:
        version = client.create_model_version(name, model_uri, run_id=run_id, model_id=model_uri.rpartition("/")[2])
    client.set_registered_model_alias(name, _CHAMPION, version.version)
    return champion_uri(name)


def champion_uri(experiment: str) -> str:
    """The address of an experiment's best model."""
    return f"models:/{experiment}@{_CHAMPION}"


def download_weights(uri: str, model_uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict and the facts of a logged model.

    A model without facts is none of `log_model`'s: it is not opened, and both are empty.

    Args:
        uri: the tracking server's address.
        model_uri: an address of MLflow's, such as `models:/NAME@champion`, or `runs:/ID` for the model of a trial.

    Raises:
        UserError: the server has no such model.
        EngineError: the server cannot be reached or refuses, or MLflow refuses what the model's file holds.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    reach_this_machine_directly()
    mlflow.set_tracking_uri(uri)
    with server_errors(uri):
        try:
            if model_uri.startswith(_RUNS):
                model_uri = _model_of_run(mlflow.MlflowClient(uri), model_uri)
            info = mlflow.models.get_model_info(model_uri)
            if not info.metadata:
                return {}, {}
            program = mlflow.pytorch.load_model(model_uri)
        except MlflowException as error:
            if error.error_code not in _NOT_FOUND:
                raise
            raise UserError(f"no model {model_uri} at MLflow server {uri}: {one_line(error)}") from None
    return dict(program.state_dict()), dict(info.metadata)


def _model_of_run(client: MlflowClient, address: str) -> str:
    """The address of a run's model. MLflow's own `runs:/ID/NAME` does not find models that are logged from outside."""
    run_id = address.removeprefix(_RUNS).partition("/")[0]
    model_uri = client.get_run(run_id).data.tags.get(tags.MODEL_URI)
    if model_uri is None:
        raise UserError(f"run {run_id} has no model; a trial logs its model when it has finished")
    return str(model_uri)
