"""How an experiment stands: what its job and its runs say, asked without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..orchestration.errors import EngineError, UserError
from ..orchestration.tracking.progress import TrialProgress, progress_of
from ..orchestration.tracking.records import Outcome
from ..orchestration.tracking.stop_requests import StopRequests
from .experiments import Experiment, Experiments
from .home import Home
from .jobs import ENDED, JOB_STATES, UNKNOWN, Jobs
from .services import Services

_LOST = "its job ended without a word: the driver was killed, or its node was lost"


@dataclass(frozen=True)
class Standing:
    """How an experiment and its trials stand.

    Attributes:
        state: of the experiment; None where it could not be asked.
        trials: one row per trial, in the order of the plan.
        unknown: what could not be asked, a line each.
    """

    state: Outcome | None
    trials: Sequence[TrialProgress]
    unknown: tuple[str, ...]


def standing(home: Home, experiment: Experiment) -> Standing:
    """Ask an experiment's job and its runs, as far as their engines answer."""
    unknown: list[str] = []
    state, records, cancelled = experiment.ended, None, frozenset[str]()
    try:
        state = _ask_job(home, experiment)
    except (EngineError, UserError, OSError) as error:
        unknown.append(f"whether its job runs is not known: {error}")
    try:
        tracker = _tracked(home, experiment).tracker
        records, cancelled = tracker.trials(), StopRequests(tracker).all()
    except (EngineError, UserError) as error:
        unknown.append(f"what its trials logged is not known: {error}")
    trials = progress_of(experiment.request.plan.trials, records, state, cancelled)
    return Standing(state, trials, tuple(unknown))


def job_state(home: Home, experiment: Experiment) -> Outcome | None:
    """The state of an experiment; None where its cluster or its tracking server is gone or does not answer."""
    try:
        return _ask_job(home, experiment)
    except (EngineError, UserError, OSError):
        return None


def note_end(home: Home, experiment: Experiment, status: str) -> Outcome:
    """Note in the record that the latest job has ended, and close the runs that it left open.

    A job that is killed, or lost with its cluster, cannot do so itself; its runs would look alive for ever.

    Args:
        home: whose experiment.
        experiment: with its engines' addresses as they are now.
        status: its job's, in Ray's words; `UNKNOWN` is what a cluster says that has forgotten the job.

    Returns:
        The state that was noted.

    Raises:
        EngineError: the tracking server does not answer.
    """
    if JOB_STATES.get(status) is Outcome.CANCELLED:
        # Somebody's `stop`, which is about to say so itself: whoever follows the job may see its end first.
        experiment.tracker.end_unfinished(Outcome.CANCELLED)
    else:
        experiment.tracker.end_unfinished(Outcome.INTERRUPTED, _LOST)
    state = _end_state(status, experiment.tracker.sweep_outcome())
    Experiments(home).save(replace(experiment, ended=state))
    return state


def _end_state(status: str, sweep: Outcome | None) -> Outcome:
    """The state of an experiment whose job has ended with this status, and what its own run says, if there is one.

    The run knows more than the job, unless it is of an earlier job: one that failed before it got to the run.
    """
    if status == UNKNOWN:
        return sweep or Outcome.INTERRUPTED
    agreeing = {
        Outcome.COMPLETED: (Outcome.CANCELLED,),
        Outcome.CANCELLED: (Outcome.FAILED, Outcome.INTERRUPTED),
        Outcome.FAILED: (Outcome.INTERRUPTED,),
    }
    by_job = JOB_STATES[status]
    return sweep if sweep in agreeing[by_job] else by_job


def _ask_job(home: Home, experiment: Experiment) -> Outcome:
    if experiment.ended:
        return experiment.ended
    experiment = _tracked(home, experiment)
    address = _running(home, "ray") if experiment.local_ray else experiment.address
    status = Jobs(address).status(experiment.job)
    return note_end(home, experiment, status) if status in (*ENDED, UNKNOWN) else JOB_STATES[status]


def _tracked(home: Home, experiment: Experiment) -> Experiment:
    """The experiment with the address that its tracking server has now."""
    uri = _running(home, "mlflow") if experiment.local_mlflow else experiment.request.tracking_uri
    return experiment.at(experiment.address, uri)


def _running(home: Home, name: str) -> str:
    """The address of an embedded engine. Raises `EngineError` if it does not run, or the home does not say."""
    service = Services(home).running().get(name)
    if service is None:
        raise EngineError(f"the local {name} does not run; `effnet-cluster up` starts it")
    return service.url
