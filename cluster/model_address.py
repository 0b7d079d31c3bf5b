"""Which model `--model` means: an address in MLflow, a local checkpoint, or an experiment's champion."""

from __future__ import annotations

import os
from pathlib import Path

from ..orchestration.errors import UserError
from ..orchestration.tracking.models import champion_uri
from ..orchestration.tracking.trained import TrainedModel, from_checkpoint, from_mlflow
from .engines import check_mlflow
from .experiments import Experiments
from .home import Home
from .services import Services

_SCHEMES = ("models:/", "runs:/")


def load_trained(home: Home, model: str, tracking_uri: str | None = None) -> TrainedModel:
    """Read a trained model.

    Args:
        home: whose experiments and embedded MLflow are meant.
        model: `models:/NAME@champion`, `models:/NAME/3`, `models:/m-…`, `runs:/ID`, the path of a checkpoint, or
            the name of an experiment, whose champion it is. What looks like a path is one.
        tracking_uri: the MLflow server; by default the experiment's own, or the embedded one.

    Raises:
        UserError: there is no such model, or it was not written by effnet-cluster.
        EngineError: the MLflow server cannot be reached or started.
    """
    if model.startswith(_SCHEMES):
        return from_mlflow(_server(home, tracking_uri), model)
    path = Path(model)
    if path.exists():
        return from_checkpoint(path)
    if os.sep in model or path.suffix == ".pt":
        raise UserError(f"--model {model}: no such file or folder")
    if tracking_uri is None:
        try:
            experiment = Experiments(home).load(model)
        except UserError as error:
            raise UserError(f"--model {model}: {error}; a model's address or a checkpoint's path will do too") from None
        tracking_uri = None if experiment.local_mlflow else experiment.request.tracking_uri
    return from_mlflow(_server(home, tracking_uri), champion_uri(model))


def _server(home: Home, tracking_uri: str | None) -> str:
    """Address of the MLflow server; a named one is asked first, because MLflow's client retries for minutes."""
    if tracking_uri is None:
        return Services(home).ensure_mlflow().url
    return check_mlflow(tracking_uri)
