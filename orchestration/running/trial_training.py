"""The training of one trial: Ray Train's worker groups one after the other, in a thread, and the trial's MLflow run."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError

from ..errors import EngineError
from ..logs import configure_logging
from ..request import ExperimentRequest, note_data
from ..sizing.allocation import WorkerResources
from ..tracking.node_metrics import NodeMetrics
from ..tracking.records import Outcome
from ..tracking.runs import Tracker
from ..tracking.server import PATIENCE_S
from ..tracking.stop_requests import CANCELLED, CANCELLED_WHILE_WAITING, StopRequests, when_requested
from ..training.job import TrainingJob, TrialPlan
from .closing import close_run, complete_run, sink_of
from .faults import Fault, FaultPolicy, GiveUp, cause, classify, decisive

# A group that was asked to leave saves within a second or two; one that waits for its place gives up after a minute.
LEAVE_S = 90.0
_log = logging.getLogger(__name__)


class TrialFailedError(EngineError):
    """A trial has ended without a result, for the reason in the message."""


class WorkerGroups(Protocol):
    """The worker groups of one trial, one at a time."""

    def fit(
        self, config: dict[str, Any], counts: tuple[int, ...], scaling_config: ScalingConfig, run_config: RunConfig
    ) -> None:
        """Run a group until it ends.

        Args:
            config: for the workers; `is_preempted` is added.
            counts: the allowed numbers of workers, ascending; the first and the last are those of `scaling_config`.
            scaling_config, run_config: Ray's.

        Raises:
            TrainingFailedError: a worker failed, or was asked to leave.
        """

    def ask_to_leave(self) -> None:
        """Make the workers save and leave, also those that are still to start."""


class TrialTraining:
    """Trains one trial in a thread of its own; restarted after a lost process, it goes on from the latest checkpoint.

    Args:
        request: of the experiment.
        sweep_id: the sweep's MLflow run.
        trial: what to train.
        resources: what its workers get.
        make_groups: makes the worker groups, of where their controller runs and of what takes their reports.
        predicted_s: seconds that the trial should take, for its run.
        goes_on_from: digests of other trainings whose checkpoints it may have taken over.
    """

    def __init__(
        self,
        request: ExperimentRequest,
        sweep_id: str,
        trial: TrialPlan,
        resources: WorkerResources,
        make_groups: Callable[[str, Callable[[dict[str, Any]], None]], WorkerGroups] | None = None,
        predicted_s: float | None = None,
        goes_on_from: Sequence[str] = (),
    ) -> None:
        self._run_id, self.cancelled = "", False
        self._request, self._sweep_id, self._trial = request, sweep_id, trial
        self._resources, self._predicted_s = resources, predicted_s
        self._goes_on_from = tuple(goes_on_from)
        self._leaving, self._is_first = threading.Event(), True
        # Metrics of an epoch; an error that ends the trial; None: it has ended well.
        self._reports: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._make_groups = make_groups or _worker_groups
        self._groups: WorkerGroups | None = None
        self._thread = threading.Thread(target=self._run, name=trial.trial_id, daemon=True)

    def next_report(self) -> dict[str, Any] | None:
        """Wait for the metrics of the next epoch; None when the trial is completed, or `cancelled` by the user.

        Raises:
            TrialFailedError: the workers failed more often than allowed, or in a way that would come again.
        """
        if self._thread.ident is None:
            self._thread.start()
        report = self._reports.get()
        if isinstance(report, BaseException):
            raise report
        return report

    def wait_for_earlier(self) -> None:
        """Begin only when the earlier process, in which Tune has paused the trial, has left it. Called first."""
        self._is_first = False

    def leave(self) -> None:
        """Have the workers save and leave, if they run, and wait for it. The MLflow run then waits for what comes."""
        self._leaving.set()
        if self._thread.ident is None:
            return
        if self._groups is not None and self._thread.is_alive():
            self._groups.ask_to_leave()
        self._thread.join(LEAVE_S)
        if self._thread.is_alive():
            _log.warning("the workers did not leave within %.0f s; they are ended", LEAVE_S)

    def _run(self) -> None:
        try:
            self._train()
        except BaseException as error:
            self._reports.put(error)
        else:
            self._reports.put(None)

    def _train(self) -> None:
        request, execution = self._request, self._request.spec.execution
        configure_logging(self._trial.trial_id)
        tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
        if not self._is_first:
            tracker.wait_until_left(self._trial.trial_id, LEAVE_S)
        job = self._job()
        self._run_id = run_id = tracker.ensure_trial(job, self._sweep_id, self._predicted_s)
        note_data(request, tracker, run_id)
        # Looked for often, and no reason to wait for the server.
        requests = StopRequests(Tracker(request.tracking_uri, request.spec.name, request.uid, patience_s=0))
        if _is_requested(requests, self._trial.trial_id):
            self.cancelled = True
            tracker.finish(run_id, Outcome.CANCELLED, CANCELLED_WHILE_WAITING)
            return
        groups = self._groups = self._make_groups(execution.controller, self._reports.put)
        with when_requested(requests, self._trial.trial_id, groups.ask_to_leave) as cancelled:
            self._fit_groups(job, tracker, FaultPolicy(execution.max_failures), cancelled)

    def _fit_groups(self, job: TrainingJob, tracker: Tracker, policy: FaultPolicy, cancelled: threading.Event) -> None:
        """Run one worker group after the other, until the training has ended or is to end."""
        request, run_id = self._request, self._run_id
        while not self._leaving.is_set():
            try:
                self._fit(job)
                complete_run(request, tracker, self._trial.trial_id, run_id)
            except TrainingFailedError as error:
                if self._leaving.is_set():
                    break
                if cancelled.is_set():
                    self.cancelled = True
                    self._close_run(tracker, Outcome.CANCELLED, CANCELLED)
                    return
                fault, reason = _fault(error)
                decision = policy.decide(fault, reason)
                if isinstance(decision, GiveUp):
                    self._close_run(tracker, Outcome.FAILED, decision.reason)
                    raise TrialFailedError(decision.reason) from error
                divisor = decision.micro_batch_divisor
                job = job.model_copy(update={"micro_batch_divisor": divisor})
                half = f", micro-batches divided by {divisor}" if divisor > 1 else ""
                _log.warning("workers ended (%s); going on from the last checkpoint%s", fault, half)
            except Exception as error:
                self._close_run(tracker, Outcome.FAILED, str(error) or type(error).__name__)
                raise
            else:
                return
        tracker.wait_for_turn(run_id)

    def _close_run(self, tracker: Tracker, outcome: Outcome, reason: str) -> None:
        close_run(self._request, tracker, self._trial.trial_id, self._run_id, outcome, reason)

    def _job(self) -> TrainingJob:
        request, resources = self._request, self._resources
        found = {"cpus_per_worker": resources.cpus, "device": "gpu" if resources.use_gpu else "cpu"}
        return TrainingJob(
            trial=self._trial,
            execution=request.spec.execution.model_copy(update=found),
            data=request.spec.data,
            data_digest=request.plan.data_digest,
            storage=request.storage_of(self._trial.trial_id),
            cache_root=request.cache_root,
            goes_on_from=self._goes_on_from,
        )

    def _fit(self, job: TrainingJob) -> None:
        """Run one worker group to its end."""
        request, resources = self._request, self._resources
        counts = resources.counts
        fewest, most = counts[0], counts[-1]
        sink = sink_of(request, self._run_id)
        scaling = ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            use_gpu=resources.use_gpu,
            resources_per_worker={name: float(amount) for name, amount in resources.per_worker.items()},
        )
        run = RunConfig(
            name=job.trial.trial_id,
            storage_path=request.trials_storage,
            # Ray Train would try again whatever the error, and without end if workers are lost while they start;
            # `faults` tells those errors apart for which that makes sense.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            # Its INFO lines repeat every report of every rank into the job's log, beside ours.
            logging_config=LoggingConfig(log_level="WARNING"),
        )
        assert self._groups is not None
        node_metrics = NodeMetrics(request.tracking_uri, request.spec.name, request.uid, self._run_id)
        self._groups.fit({"job": job, "sink": sink, "node_metrics": node_metrics}, counts, scaling, run)


def _worker_groups(controller: str, report: Callable[[dict[str, Any]], None]) -> WorkerGroups:
    """Groups whose controller is in this process, or as Ray promises it."""
    if controller == "trial":
        from .ray_internals import GroupsInProcess

        return GroupsInProcess(report)
    from .actor_groups import GroupsInActor

    return GroupsInActor(report)


def _is_requested(requests: StopRequests, trial_id: str) -> bool:
    try:
        return requests.requested(trial_id)
    except EngineError:  # the server is away: it is asked again while the trial trains
        return False


def _fault(error: TrainingFailedError) -> tuple[Fault, BaseException]:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return decisive(error.worker_failures)
    return classify(error), cause(error)
