"""The runs of an experiment in MLflow: one for its sweep and, below it, one for each trial.

A run is made once. Later calls, also those of another process, find it again by its tags, so that every call here may
be repeated. All of it goes over HTTP to a tracking server; nobody opens its database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import EngineError, NameTakenError
from ..training.job import TrainingJob
from ..training.metrics import RECEIPT_HIGH, RECEIPT_LOW
from . import tags
from .records import MetricPoint, Outcome, TrialRecord, trial_params
from .server import make_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# The server's limit per request.
_MOST_PARAMS = 100
# Runs per page: the server takes a fraction of a second for one, in which others wait for it.
_PAGE = 200
_TRIALS = f"tags.`{tags.ROLE}` = '{tags.TRIAL}'"
# Characters: one line of the web page. The job's log has the whole error.
_REASON_LENGTH = 500
# Seconds between two looks at a run that another process is to leave.
_POLL_S = 1.0


class Tracker:
    """The runs of one experiment on one tracking server.

    Args:
        uri: the server's address.
        experiment: the experiment's name.
        uid: what tells the experiment from others of that name.
        patience_s: seconds for which a call waits for a server that is away; a few, for one that is just restarted.

    Raises:
        EngineError: (any method) the server cannot be reached or refuses.
        UserError: (any method that reads or makes runs) the server's experiment of that name is another one, or was
            deleted there.
    """

    def __init__(self, uri: str, experiment: str, uid: str, patience_s: float = 3.0) -> None:
        self.uri = uri
        self.experiment = experiment
        self.uid = uid
        self.patience_s = patience_s
        self._known_id: str | None = None  # of the MLflow experiment, once a search has found it

    @cached_property
    def client(self) -> MlflowClient:
        """The HTTP client; MLflow is imported here, when it is first needed."""
        return make_client(self.uri, self.patience_s)

    @cached_property
    def experiment_id(self) -> str:
        """Id of the MLflow experiment, created if it is missing."""
        found = self._find_experiment()
        if found is None:
            # Without its kind, MLflow's page takes an experiment for one of language-model agents.
            marks = {tags.EXPERIMENT_KIND: "custom_model_development", tags.UID: self.uid}
            found = str(self.client.create_experiment(self.experiment, tags=marks))
        return found

    def claim(self) -> None:
        """Make the name this experiment's on the server.

        Raises:
            NameTakenError: the server has an experiment or a registered model of that name, which is another's.
        """
        try:
            self.check_model_name()
            _ = self.experiment_id
        except EngineError as error:
            # Somebody was faster by less than a request.
            if getattr(error.__cause__, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            raise self._taken("an experiment") from None

    def release(self) -> None:
        """Give the name back, where nothing was run under it. Raises `NameTakenError` if it is another's."""
        found = self._find_experiment()
        if found is not None:
            # MLflow keeps what is deleted, and its name with it.
            self.client.rename_experiment(found, f"{self.experiment}-{self.uid}")
            self.client.delete_experiment(found)

    def check_model_name(self) -> bool:
        """Whether the registered model of this experiment's name is there already.

        Raises:
            NameTakenError: it is there, and another's.
        """
        found = self.client.search_registered_models(f"name='{self.experiment}'")
        if found and found[0].tags.get(tags.UID) != self.uid:
            raise self._taken("a registered model")
        return bool(found)

    def _taken(self, what: str) -> NameTakenError:
        return NameTakenError(
            f"MLflow at {self.uri} has {what} '{self.experiment}' of another home or time; choose another --name"
        )

    def experiment_tags(self) -> Mapping[str, str]:
        """The tags of the MLflow experiment; none where it is not there."""
        found = self._experiment()
        return {} if found is None else dict(found.tags)

    def ensure_sweep(self, params: Mapping[str, Any], spec_yaml: str, data_digest: str) -> str:
        """Find or create the sweep's run, mark it running, and return its id.

        Args:
            params: what the experiment's specification says, by the names of its fields.
            spec_yaml: the specification as `submit --spec` takes it.
            data_digest: of the data set's manifest.
        """
        run = self._find(tags.ROLE, tags.SWEEP) or self._create(
            {
                tags.RUN_NAME: self.experiment,
                tags.ROLE: tags.SWEEP,
                tags.UID: self.uid,
                tags.DATA_DIGEST: data_digest,
            }
        )
        self._describe(run, params)
        self.log_text(run.info.run_id, spec_yaml, "experiment.yaml")
        self._reopen(run, {})
        return str(run.info.run_id)

    def ensure_trial(self, job: TrainingJob, sweep_id: str, predicted_s: float | None = None) -> str:
        """Find or create the run of a job's trial, mark it running, and return its id.

        Args:
            job: what is trained.
            sweep_id: the id of the sweep's run.
            predicted_s: seconds that the trial should take.
        """
        trial = job.trial
        run = self._find(tags.TRIAL_ID, trial.trial_id) or self._create(
            {
                tags.RUN_NAME: trial.trial_id,
                tags.PARENT_RUN: sweep_id,
                tags.ROLE: tags.TRIAL,
                tags.TRIAL_ID: trial.trial_id,
                "variant": trial.variant,
                "activation": trial.model.activation,
                "shortcut": trial.model.shortcut,
                tags.DATA_DIGEST: job.data_digest,
                **({tags.SWEPT: json.dumps(trial.swept)} if trial.swept else {}),
            }
        )
        self._describe(run, trial_params(job))
        if predicted_s is not None and tags.PREDICTED_SECONDS not in run.data.tags:
            self.client.set_tag(run.info.run_id, tags.PREDICTED_SECONDS, f"{predicted_s:.1f}")
        began = {tags.BEGAN: f"{time.time():.3f}"}
        if run.data.params.get("epochs", str(trial.recipe.epochs)) != str(trial.recipe.epochs):
            began[tags.EPOCHS] = str(trial.recipe.epochs)
        self._reopen(run, began)
        return str(run.info.run_id)

    def finish(self, run_id: str, outcome: Outcome, reason: str = "") -> None:
        """Close a run. `reason` says in one line why it has ended so."""
        self._set_outcome(run_id, outcome, {tags.REASON: reason[:_REASON_LENGTH]} if reason else {})

    def wait_for_turn(self, run_id: str) -> None:
        """Mark a trial's run as pending: it will run, or go on, when it has its turn."""
        self._reopen(self.client.get_run(run_id), {}, Outcome.PENDING)

    def trials(self) -> list[TrialRecord]:
        """Every trial that has started, in the order in which they did. Creates nothing.

        A run that has no parameters yet is left out: its process has just made it, or was lost while doing so.

        Raises:
            UserError: a run was logged by another version.
        """
        return self._trials(_TRIALS)

    def running_trials(self) -> list[TrialRecord]:
        """Those of `trials` that run."""
        return self._trials(f"{_TRIALS} AND tags.`{tags.OUTCOME}` = '{Outcome.RUNNING.value}'")

    def ended_trials(self, after: float) -> list[TrialRecord]:
        """Those of `trials` that have ended after a time in seconds since 1970, by their own clocks."""
        return self._trials(f"{_TRIALS} AND attributes.end_time > {round(after * 1000)}")

    def trial(self, run_id: str) -> TrialRecord:
        """The trial of a run."""
        return TrialRecord.of(self.client.get_run(run_id))

    def history(self, run_id: str, metric: str) -> list[MetricPoint]:
        """The curve of a metric, in the order of its steps; empty if it was never logged."""
        points = self.client.get_metric_history(run_id, metric)
        return sorted(MetricPoint(point.step, point.value, point.timestamp / 1000) for point in points)

    def wait_until_left(self, trial_id: str, seconds: float) -> str | None:
        """Wait until the process of a trial has left its run; returns the run's id, None where there is no run."""
        deadline = time.monotonic() + seconds
        while True:
            run = self._find(tags.TRIAL_ID, trial_id)
            if run is None:
                return None
            if Outcome.of(run) is not Outcome.RUNNING or time.monotonic() > deadline:
                return str(run.info.run_id)
            time.sleep(_POLL_S)

    def receipts(self, run_id: str) -> dict[int, int]:
        """The receipt, a hash of the consumed samples, of every epoch that a run has logged; epochs count from 1."""
        high, low = (
            {point.step: int(point.value) for point in self.history(run_id, name)}
            for name in (RECEIPT_HIGH, RECEIPT_LOW)
        )
        return {epoch: high[epoch] << 32 | low[epoch] for epoch in sorted(high.keys() & low.keys())}

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text with a run, replacing one of that name."""
        self.client.log_text(run_id, text, name)

    def sweep_outcome(self) -> Outcome | None:
        """How the sweep stands; None where it has no run."""
        run = self._find(tags.ROLE, tags.SWEEP)
        return None if run is None else Outcome.of(run)

    def end_unfinished(self, outcome: Outcome, reason: str = "") -> None:
        """Close the runs of the sweep and its trials that look alive, after whatever ran them has ended."""
        alive = [run for role in (tags.TRIAL, tags.SWEEP) for run in self._search(tags.ROLE, role)]
        alive = [run for run in alive if not Outcome.of(run).is_terminal]
        for run in alive:
            self.finish(run.info.run_id, outcome, reason)
        self.end_half_ended()

    def end_half_ended(self) -> None:
        """Give runs their status whose outcome is written, by a process that was killed between the two."""
        for status in (Outcome.RUNNING.run_status, Outcome.PENDING.run_status):
            for run in self._search_where(f"attributes.status = '{status}'"):
                if (outcome := Outcome.of(run)).is_terminal:
                    self.client.set_terminated(run.info.run_id, status=outcome.run_status)

    def cancel(self) -> None:
        """Mark the sweep and its unfinished trials as cancelled, after their job has been stopped."""
        self.end_unfinished(Outcome.CANCELLED)
        # The driver may have seen its trials vanish, and called the sweep failed, before it was stopped itself.
        for run in self._search(tags.ROLE, tags.SWEEP):
            if Outcome.of(run) is Outcome.FAILED:
                self.finish(run.info.run_id, Outcome.CANCELLED)

    def _find_experiment(self) -> str | None:
        found = self._experiment()
        return None if found is None else str(found.experiment_id)

    def _experiment(self) -> Experiment | None:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return None
        if found.lifecycle_stage == "deleted":
            raise NameTakenError(
                f"experiment '{self.experiment}' was deleted in MLflow at {self.uri}; "
                "restore it there or submit under another --name"
            )
        if found.tags.get(tags.UID) != self.uid:
            raise self._taken("an experiment")
        return found

    def _trials(self, where: str) -> list[TrialRecord]:
        return [TrialRecord.of(run) for run in self._search_where(where) if run.data.params]

    def _search(self, tag: str, value: str) -> list[Run]:
        """The experiment's runs with that tag, oldest first; none where there is no experiment."""
        return self._search_where(f"tags.`{tag}` = '{value}'")

    def _search_where(self, where: str) -> list[Run]:
        self._known_id = self._known_id or self._find_experiment()
        runs: list[Run] = []
        token = None
        while self._known_id is not None:
            page = self.client.search_runs(
                [self._known_id],
                where,
                max_results=_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                break
        return runs

    def _find(self, tag: str, value: str) -> Run | None:
        return next(iter(self._search(tag, value)), None)

    def _create(self, run_tags: Mapping[str, str]) -> Run:
        return self.client.create_run(self.experiment_id, tags=dict(run_tags))

    def _describe(self, run: Run, params: Mapping[str, Any]) -> None:
        """Log the parameters that a run has not yet. What is there stays, for MLflow takes no changes.

        A process may have been lost between making the run and this.
        """
        from mlflow.entities import Param

        missing = [Param(name, _text(value)) for name, value in params.items() if name not in run.data.params]
        for start in range(0, len(missing), _MOST_PARAMS):
            self.client.log_batch(run.info.run_id, params=missing[start : start + _MOST_PARAMS])

    def _reopen(self, run: Run, more: Mapping[str, str], outcome: Outcome = Outcome.RUNNING) -> None:
        """Mark a run as running or pending, also one that ended before, with more tags."""
        if tags.REASON in run.data.tags:
            self.client.delete_tag(run.info.run_id, tags.REASON)
        self._set_outcome(run.info.run_id, outcome, more)

    def _set_outcome(self, run_id: str, outcome: Outcome, more: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        written = {tags.OUTCOME: outcome.value, **more}
        # Before the tag: whoever waits for a trial's process to leave goes by it, and may close the run at once.
        if not outcome.is_terminal:
            self.client.update_run(run_id, status=outcome.run_status)
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in written.items()])
        if outcome.is_terminal:
            self.client.set_terminated(run_id, status=outcome.run_status)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_text(item)}" for name, item in value.items())
    return str(value)
