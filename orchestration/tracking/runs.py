"""MLflow: one experiment a name, a parent run for the sweep and one child run for each trial, for ever.

The only module that knows MLflow (its server process apart). Everything speaks HTTP to a tracking server; nobody opens
its database. Every call here may be repeated: after a restart the same runs are found again by their tags.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import EngineError, UserError
from ..plan import Plan
from ..training.job import TrialPlan
from ..training.recipes import Recipe

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import Run

# Progress bars of uploads and the same two links for every trial would only fill the job's log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Our models are exported programs. A pickled one, which could run any code, is refused instead of opened.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

_ROLE, _TRIAL, _MODEL = "effnet.role", "effnet.trial", "effnet.model_uri"
_REASON = "outcome.reason"
_MODEL_NAME = "model"
_RUNS = "runs:/"
# How MLflow says that a name, a version, an alias or a run is not there.
_NOT_FOUND = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
CHAMPION = "champion"
# Fields of a recipe that the model of a trial has its own values of.
_OF_MODEL = frozenset({"dropout", "stochastic_depth"})


class Outcome(StrEnum):
    """How a trial stands. MLflow's own statuses cannot tell a cancelled run from one that a scheduler stopped.

    running → completed | stopped (by the scheduler) | failed | cancelled (by the user); `resume` makes failed and
    cancelled trials running again.
    """

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the trial will log no more."""
        return self is not Outcome.RUNNING

    @property
    def run_status(self) -> str:
        """MLflow's nearest run status."""
        return {"running": "RUNNING", "failed": "FAILED", "cancelled": "KILLED"}.get(self.value, "FINISHED")


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the tracking server knows it. `params` and `tags` are text.

    `seconds` is the training time of all its epochs: without start-up, evaluation and what lies between restarts.
    """

    trial_id: str
    run_id: str
    outcome: Outcome
    seconds: float
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def model_uri(self) -> str | None:
        """MLflow address of the logged model, once there is one."""
        return self.tags.get(_MODEL)

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return self.tags.get(_REASON, "failed")


class Tracker:
    """The runs of one experiment on one tracking server.

    Raises:
        EngineError: (any method) the server cannot be reached or refuses.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.experiment = experiment

    @cached_property
    def client(self) -> MlflowClient:
        """The HTTP client; MLflow is imported here, when it is first needed."""
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """Id of the MLflow experiment, created if it is missing."""
        found = self._find_experiment()
        if found is not None:
            return found
        with _server_errors(self.uri):
            # Without its kind, MLflow's page takes an experiment for one of language-model agents.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(self.client.create_experiment(self.experiment, tags=kind))

    def compare_url(self, records: Sequence[TrialRecord]) -> str:
        """Where MLflow's web page shows these trials side by side."""
        runs = quote(json.dumps([record.run_id for record in records]))
        experiments = quote(json.dumps([self.experiment_id]))
        return f"{self.uri.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}"

    def ensure_parent(self, plan: Plan) -> str:
        """Find or create the sweep's parent run; returns its id."""
        tags = {"mlflow.runName": self.experiment, _ROLE: "sweep", "data.digest": plan.data_digest}
        run = self._find({_ROLE: "sweep"})
        if run is None:
            with _server_errors(self.uri):
                run = self.client.create_run(self.experiment_id, tags=tags)
            spec = plan.spec.model_dump(mode="json", exclude={"recipe", "execution"})
            spec |= plan.spec.execution.model_dump(mode="json") | _recipe_params(plan.spec.recipe)
            self._log_params(run.info.run_id, {name: value for name, value in spec.items() if value is not None})
            with _server_errors(self.uri):
                self.client.log_text(run.info.run_id, plan.spec.to_yaml(), "experiment.yaml")
        self._reopen(run)
        return str(run.info.run_id)

    def ensure_trial(self, trial: TrialPlan, parent_id: str, plan_facts: Mapping[str, Any]) -> str:
        """Find or create a trial's run, mark it running, and return its id."""
        run = self._find({_TRIAL: trial.trial_id})
        if run is None:
            tags = {
                "mlflow.runName": trial.trial_id,
                "mlflow.parentRunId": parent_id,
                _ROLE: "trial",
                _TRIAL: trial.trial_id,
                "variant": trial.variant,
                "activation": trial.model.activation,
                "shortcut": trial.model.shortcut,
                "data.digest": str(plan_facts["data_digest"]),
            }
            with _server_errors(self.uri):
                run = self.client.create_run(self.experiment_id, tags=tags)
        if not run.data.params:  # also where a process was lost between creating the run and this
            self._log_params(run.info.run_id, _trial_params(trial) | dict(plan_facts))
        self._reopen(run)
        return str(run.info.run_id)

    def finish(self, run_id: str, outcome: Outcome, reason: str = "") -> None:
        """Close a run. `reason` says in one line why it failed."""
        with _server_errors(self.uri):
            if reason:
                self.client.set_tag(run_id, _REASON, reason[:500])
            self._set_outcome(run_id, outcome)

    def trials(self) -> list[TrialRecord]:
        """Every trial that has started, in the order in which they did. Creates nothing."""
        if self._find_experiment() is None:
            return []
        return [_record(run) for run in self._search({_ROLE: "trial"})]

    def receipts(self, run_id: str) -> dict[int, int]:
        """The receipt of every epoch that a run has logged; epochs count from 1."""
        halves = []
        for name in ("receipt/high", "receipt/low"):
            with _server_errors(self.uri):
                halves.append({p.step: int(p.value) for p in self.client.get_metric_history(run_id, name)})
        high, low = halves
        return {epoch: high[epoch] << 32 | low[epoch] for epoch in sorted(high.keys() & low.keys())}

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text with a run, replacing one of that name."""
        with _server_errors(self.uri):
            self.client.log_text(run_id, text, name)

    def cancel_unfinished(self) -> None:
        """Mark the sweep and its unfinished trials as cancelled, after whatever ran them has been stopped."""
        if self._find_experiment() is None:
            return
        for run in self._search({_ROLE: "trial"}):
            if not _outcome(run).is_terminal:
                self.finish(run.info.run_id, Outcome.CANCELLED)
        # The driver may have seen its trials vanish, and called the sweep failed, before it was stopped itself.
        for run in self._search({_ROLE: "sweep"}):
            if _outcome(run) is not Outcome.COMPLETED:
                self.finish(run.info.run_id, Outcome.CANCELLED)

    def register(self, run_id: str, model_uri: str) -> str:
        """Register a run's model under the experiment's name with the alias `champion`; returns its `models:/…`.

        A run that has a registered model already gets no second version.
        """
        from mlflow.exceptions import MlflowException

        with _server_errors(self.uri):
            with contextlib.suppress(MlflowException):  # it exists
                self.client.create_registered_model(self.experiment)
            versions = self.client.search_model_versions(f"name='{self.experiment}'")
            version = next((v for v in versions if v.run_id == run_id), None)
            if version is None:
                version = self.client.create_model_version(
                    self.experiment, model_uri, run_id=run_id, model_id=model_uri.rpartition("/")[2]
                )
            self.client.set_registered_model_alias(self.experiment, CHAMPION, version.version)
        return f"models:/{self.experiment}@{CHAMPION}"

    def _find_experiment(self) -> str | None:
        with _server_errors(self.uri):
            found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"experiment '{self.experiment}' was deleted in MLflow at {self.uri}; "
                "restore it there or submit under another --name"
            )
        return str(found.experiment_id)

    def _search(self, tags: Mapping[str, str]) -> list[Run]:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs: list[Run] = []
        token = None
        while True:
            with _server_errors(self.uri):
                page = self.client.search_runs(
                    [self.experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token
                )
            runs += page
            token = page.token
            if not token:
                return runs

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        return next(iter(self._search(tags)), None)

    def _reopen(self, run: Run) -> None:
        """Mark a run as running, also one that ended before."""
        with _server_errors(self.uri):
            if _REASON in run.data.tags:
                self.client.delete_tag(run.info.run_id, _REASON)
        self._set_outcome(run.info.run_id, Outcome.RUNNING)

    def _set_outcome(self, run_id: str, outcome: Outcome) -> None:
        with _server_errors(self.uri):
            self.client.set_tag(run_id, "outcome", outcome.value)
            if outcome.is_terminal:
                self.client.set_terminated(run_id, status=outcome.run_status)
            else:
                self.client.update_run(run_id, status=outcome.run_status)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        with _server_errors(self.uri):
            self.client.log_batch(run_id, params=[Param(name, _text(value)) for name, value in params.items()])


class MetricLog:
    """Appends metrics to one run and never logs a step twice, also not after a restart from a checkpoint.

    Training is deterministic up to the step, so what a restarted worker recomputes is what was logged before.
    """

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._last: dict[str, int] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics at `step`; those that already reach this step are left out."""
        self.log_steps([(step, metrics)])

    def log_steps(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log several steps in as few requests as MLflow allows."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        fresh = [
            Metric(name, float(value), now, step)
            for step, metrics in points
            for name, value in metrics.items()
            if step > self._last_step(name)
        ]
        with _server_errors(self._tracker.uri):
            for start in range(0, len(fresh), 1000):  # the server's limit a request
                self._tracker.client.log_batch(self._run_id, metrics=fresh[start : start + 1000])
        for metric in fresh:
            self._last[metric.key] = metric.step

    def _last_step(self, name: str) -> int:
        if name not in self._last:
            with _server_errors(self._tracker.uri):
                history = self._tracker.client.get_metric_history(self._run_id, name)
            self._last[name] = max((point.step for point in history), default=-1)
        return self._last[name]


def log_model(
    tracker: Tracker, run_id: str, model: torch.nn.Module, example: Any, top1: float, metadata: Mapping[str, Any]
) -> str:
    """Log `model` to a run as an exported program that needs no code of ours to be loaded; returns its address.

    A run that has a model already keeps it (a worker may be lost right after logging).

    Args:
        tracker: where to.
        run_id: the trial's run.
        model: takes uint8 images (N, H, W, 3), returns float32 (N, classes); in eval mode, on the CPU.
        example: uint8 array (N ≥ 2, H, W, 3).
        top1: the model's validation top-1, noted with the model.
        metadata: JSON-safe facts that are kept with the model, see `models.ModelFacts`.
    """
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    with _server_errors(tracker.uri):
        known = tracker.client.get_run(run_id).data.tags.get(_MODEL)
    if known:
        return str(known)
    with torch.inference_mode():
        classes = model(torch.from_numpy(example)).shape[1]
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
    mlflow.set_tracking_uri(tracker.uri)
    with _server_errors(tracker.uri):
        # `Model.log` files the model under the process's experiment, not under the run's.
        mlflow.set_experiment(experiment_id=tracker.experiment_id)
        info = Model.log(
            artifact_path=None,
            name=_MODEL_NAME,
            flavor=mlflow.pytorch,
            run_id=run_id,
            pytorch_model=model,
            signature=signature,
            input_example=example,
            metadata=dict(metadata),
            serialization_format="pt2",
            # Given, so that MLflow does not load the model in another process to find them.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        )
        # Not under the name of the run's curve, which would gain a second point at a step that it has.
        tracker.client.log_metric(run_id, "model/top1", top1, model_id=info.model_id)
        tracker.client.set_tag(run_id, _MODEL, info.model_uri)
    return str(info.model_uri)


def read_weights(uri: str, model_uri: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict and the metadata of a logged model.

    `model_uri` is an address of MLflow's, such as `models:/NAME@champion`, or `runs:/ID` for the model of a trial. A
    model without metadata is none of `log_model`'s: it is not opened, and both are empty.

    Raises:
        UserError: the server has no such model.
        EngineError: the server cannot be reached or refuses, or MLflow refuses what the model's file holds.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    with _server_errors(uri):
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
            raise UserError(f"no model {model_uri} at MLflow server {uri}: {_one_line(error)}") from None
    return dict(program.state_dict()), dict(info.metadata)


def _model_of_run(client: MlflowClient, address: str) -> str:
    """The address of a run's model. MLflow's own `runs:/ID/NAME` does not find models that are logged from outside."""
    run_id = address.removeprefix(_RUNS).partition("/")[0]
    model_uri = client.get_run(run_id).data.tags.get(_MODEL)
    if model_uri is None:
        raise UserError(f"run {run_id} has no model; a trial logs its model when it has finished")
    return str(model_uri)


def _recipe_params(recipe: Recipe) -> dict[str, Any]:
    """A recipe's fields that are set, its name among them as `recipe`."""
    fields = recipe.model_dump(exclude_none=True)
    return {"recipe": fields.pop("name"), **fields}


def _trial_params(trial: TrialPlan) -> dict[str, Any]:
    """What tells a trial from the others, as MLflow parameters (columns of its compare view)."""
    return {
        "variant": trial.variant,
        "activation": trial.model.activation,
        "shortcut": trial.model.shortcut,
        "seed": trial.seed,
        "shuffle_block": trial.shuffle_block or "all",
        "image_size": trial.image_size,
        "params": trial.params,
        "macs": trial.macs,
        "width": trial.model.width,
        "depth": trial.model.depth,
        "dropout": trial.model.dropout,
        "stochastic_depth": trial.model.stochastic_depth,
        **{name: value for name, value in _recipe_params(trial.recipe).items() if name not in _OF_MODEL},
    }


def _record(run: Run) -> TrialRecord:
    tags = dict(run.data.tags)
    return TrialRecord(
        trial_id=tags.get(_TRIAL, ""),
        run_id=run.info.run_id,
        outcome=_outcome(run),
        seconds=run.data.metrics.get("time/train_seconds", 0.0),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
    )


def _outcome(run: Run) -> Outcome:
    return Outcome(run.data.tags.get("outcome", "running"))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


@contextlib.contextmanager
def _server_errors(uri: str) -> Iterator[None]:
    """Turn what the client raises into one line that names the server."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise EngineError(f"MLflow server {uri}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
