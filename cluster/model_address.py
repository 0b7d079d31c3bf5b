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
from .lifecycle import reconnect_tracking
from .services import Services

SCHEMES = ("models:/", "runs:/")
"""How addresses of models in MLflow begin."""


def load_trained(home: Home, model: str, tracking_uri: str | None = None) -> TrainedModel:
    """Read a trained model.

    Args:
        home: whose experiments and embedded MLflow are meant.
        model: `models:/NAME@champion`, `models:/NAME/3`, `models:/m-…`, `runs:/ID`, the path of a checkpoint, the name
            of an experiment, whose champion it is, or EXPERIMENT/TRIAL. What else looks like a path is one.
        tracking_uri: the MLflow server; by default the experiment's own, or the embedded one.

    Raises:
        UserError: there is no such model, or it was not written by effnet-cluster.
        EngineError: the MLflow server cannot be reached or started.
    """
    if model.startswith(SCHEMES):
        return from_mlflow(_server(home, tracking_uri), model)
    path = Path(model)
    if path.exists():
        return from_checkpoint(path)
    name, _, trial_id = model.partition("/")
    experiments = Experiments(home)
    if name not in experiments.names() and (os.sep in model or path.suffix == ".pt"):
        raise UserError(f"--model {model}: no such file or folder, nor a trial of an experiment")
    if tracking_uri is not None and not trial_id:
        return from_mlflow(check_mlflow(tracking_uri), champion_uri(name))
    try:
        experiment = experiments.load(name)
    except UserError as error:
        raise UserError(f"--model {model}: {error}; a model's address or a checkpoint's path will do too") from None
    if tracking_uri is None:
        experiment = reconnect_tracking(home, experiment)
    else:
        experiment = experiment.at(experiment.address, check_mlflow(tracking_uri))
    uri = experiment.request.tracking_uri
    if not trial_id:
        return from_mlflow(uri, champion_uri(name))
    records = experiment.tracker.trials()
    run_id = next((record.run_id for record in records if record.trial_id == trial_id), None)
    if run_id is None:
        raise UserError(f"--model {model}: experiment '{name}' has no such trial, or it has not begun")
    return from_mlflow(uri, f"runs:/{run_id}")


def _server(home: Home, tracking_uri: str | None) -> str:
    """Address of the MLflow server; a named one is asked first, because MLflow's client retries for minutes."""
    if tracking_uri is None:
        return Services(home).ensure_mlflow().url
    return check_mlflow(tracking_uri)
