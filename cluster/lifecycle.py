"""What can be done to an experiment: launch, resume, extend, stop."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..datasets import DataError
from ..orchestration.errors import EngineError, NameTakenError, UserError
from ..orchestration.extension import Extension
from ..orchestration.plan import Plan
from ..orchestration.request import ExperimentRequest
from ..orchestration.sizing.cost import CostModel
from ..orchestration.tracking.records import Outcome
from ..orchestration.tracking.saved_view import save_view
from ..orchestration.tracking.stop_requests import StopRequests
from ..orchestration.training.execution import Execution
from ..orchestration.training.storage import OWNER_FILE, Storage
from .engines import Engines, check_mlflow, ensure_engines
from .experiments import Experiment, Experiments, next_job
from .home import Home
from .jobs import ENDED, UNKNOWN, Jobs
from .services import Services
from .states import note_end

_LOCK = "experiments"
# Trials that a message names.
_LISTED = 10


def launch(
    home: Home,
    plan: Plan,
    engines: Engines,
    storage: str | None = None,
    *,
    rename: bool = False,
    costs: CostModel | None = None,
    probe: bool = False,
) -> Experiment:
    """Record a new experiment and submit it. Nothing stays if its name is taken or the cluster refuses the job.

    The record comes first: a job without one could not be found again.

    Args:
        home: whose experiment.
        plan: what to run.
        engines: where.
        storage: folder or URL below which the experiment gets a folder of its name; None: the home.
        rename: whether the next free name is taken where the plan's is not free.
        costs: predicts what the trials take; None: by multiply-adds alone.
        probe: whether the driver measures what that lacks.

    Raises:
        NameTakenError: the home, the tracking server or the storage has another experiment of that name.
        EngineError: an engine cannot be reached or refuses.
    """
    taken: set[str] = set()
    while True:
        try:
            experiment = _reserve(home, plan, engines, storage, taken if rename else None, costs, probe)
            break
        except NameTakenError as error:
            if not rename or error.name is None:
                raise
            taken.add(error.name)
    jobs = Jobs(engines.address)
    try:
        jobs.submit(experiment.request)
    except BaseException:
        if not _may_be_known(jobs, experiment.job):
            _withdraw(home, experiment)
        raise
    return experiment


def _reserve(
    home: Home,
    plan: Plan,
    engines: Engines,
    storage: str | None,
    taken: set[str] | None,
    costs: CostModel | None,
    probe: bool,
) -> Experiment:
    """Record an experiment, then make its name its own on the tracking server and in the storage."""
    experiments = Experiments(home)
    with home.locked(_LOCK):
        name = plan.spec.name
        if taken is None:
            experiments.require_free(name)
        else:
            name = experiments.free_name(name, taken)
        spec = plan.spec.model_copy(update={"name": name})
        request = ExperimentRequest(
            uid=uuid.uuid4().hex,
            job=name,
            plan=plan.model_copy(update={"spec": spec}),
            tracking_uri=engines.tracking_uri,
            storage=_storage(storage, experiments, name),
            cache_root=str(home.cache),
            costs=costs or CostModel(),
            probe=probe,
            local=engines.local_ray,
        )
        experiment = experiments.new(request, engines)
        experiments.save(experiment)
    try:
        if experiment.local_ray:  # else the driver does; this machine need not see the storage
            Storage(request.storage).claim(request.uid)
        experiment.tracker.claim()
        save_view(experiment.tracker, tuple(plan.spec.search.sweep))
    except BaseException as error:
        _withdraw(home, experiment)
        if isinstance(error, NameTakenError):
            error.name = name
        raise
    return experiment


def _storage(given: str | None, experiments: Experiments, name: str) -> str:
    if given is None:
        return str(experiments.folder(name))
    root = given.rstrip("/") if "://" in given else str(Path(given).absolute())
    return f"{root}/{name}"


def _may_be_known(jobs: Jobs, job: str) -> bool:
    """Whether the cluster has a job whose submission failed here; yes where it does not answer."""
    try:
        return jobs.status(job) != UNKNOWN
    except EngineError:
        return True


def _withdraw(home: Home, experiment: Experiment) -> None:
    """Undo `_reserve`, as far as the engines let it. What is another's stays."""
    storage = Storage(experiment.request.storage)
    with contextlib.suppress(OSError):
        if storage.read(OWNER_FILE).decode(errors="replace") == experiment.request.uid:
            storage.delete(OWNER_FILE)
    with contextlib.suppress(EngineError, UserError):
        experiment.tracker.release()
    Experiments(home).remove(experiment.name)


def resume(home: Home, name: str, execution: Execution) -> Experiment:
    """Run what is left of an experiment: unfinished trials go on from their checkpoints, finished ones stay.

    Args:
        home: whose experiment.
        name: the experiment's.
        execution: how its trials run from now on.

    Raises:
        UserError: there is no such experiment, it still runs, its data are gone or others now, or `execution` does not
            fit it.
    """
    return _run_again(home, name, execution.cache_limit, lambda plan: plan.run_by(execution))


def extend(home: Home, name: str, extension: Extension) -> Experiment:
    """Run more of an experiment: what is new, what was left, and finished trials for the epochs that they lack.

    Raises:
        UserError: see `resume`, or what is added does not fit the experiment.
    """
    plan = Experiments(home).load(name).request.plan
    extension.apply(plan)  # a typing mistake should be told before anything is asked or started
    return _run_again(home, name, plan.spec.execution.cache_limit, extension.apply)


def _run_again(home: Home, name: str, cache_limit: int | None, replan: Callable[[Plan], Plan]) -> Experiment:
    """Submit the next job of an experiment that does not run, with another plan."""
    experiments = Experiments(home)
    found = experiments.load(name)
    _require_data(home, found.request.plan, cache_limit)
    found = reconnect(home, found)  # which may take a while; others need not wait for it
    jobs = Jobs(found.address)
    with home.locked(_LOCK):
        experiment = experiments.load(name).at(found.address, found.request.tracking_uri)
        if jobs.is_active(experiment.job):
            raise UserError(f"experiment '{name}' is running; `effnet-cluster logs {name} -f` follows it")
        fresh = next_job(experiment)
        request = fresh.request
        fresh = replace(fresh, request=request.model_copy(update={"plan": replan(request.plan)}))
        experiments.save(fresh)
        try:
            StopRequests(fresh.tracker).clear()
            save_view(fresh.tracker, tuple(fresh.request.spec.search.sweep))  # an earlier version has saved none
            jobs.submit(fresh.request)
        except BaseException:
            if not _may_be_known(jobs, fresh.job):
                experiments.save(experiment)
            raise
    return fresh


def _require_data(home: Home, plan: Plan, cache_limit: int | None) -> None:
    """Refuse to go on with other data under the name of the old ones."""
    try:
        manifest = home.open_dataset(plan.spec.data, cache_limit, typed=False)
    except DataError as error:
        digest = plan.data_digest[:12]
        raise UserError(f"the data of '{plan.spec.name}', digest {digest}, cannot be opened: {error}") from error
    plan.require_data(manifest)


def stop(home: Home, name: str) -> bool:
    """Stop an experiment's job and mark what was unfinished as cancelled; False if nothing was running."""
    experiment = reconnect(home, Experiments(home).load(name))
    jobs = Jobs(experiment.address)
    status = jobs.status(experiment.job)
    if status in (*ENDED, UNKNOWN):
        note_end(home, experiment, status)
        return False
    jobs.stop(experiment.job)
    experiment.tracker.cancel()
    Experiments(home).save(replace(experiment, ended=Outcome.CANCELLED))
    return True


def stop_trial(home: Home, name: str, trial_id: str) -> Outcome | None:
    """Ask one trial to save and end, or never to start; the others go on.

    Returns:
        The state in which it had ended already; None where it was asked.

    Raises:
        UserError: there is no such trial, or the experiment does not run.
    """
    experiment = reconnect(home, Experiments(home).load(name))
    known = {record.trial_id: record.outcome for record in experiment.tracker.trials()}
    trials = list(dict.fromkeys([*(trial.trial_id for trial in experiment.request.plan.trials), *known]))
    if trial_id not in trials:
        shown = ", ".join(trials[:_LISTED]) + (", …" if len(trials) > _LISTED else "")
        raise UserError(f"'{name}' has no trial '{trial_id}'; its trials are {shown}")
    if not Jobs(experiment.address).is_active(experiment.job):
        raise UserError(f"experiment '{name}' does not run; there is no trial to stop")
    outcome = known.get(trial_id, Outcome.PENDING)
    if outcome.is_terminal:
        return outcome
    StopRequests(experiment.tracker).request(trial_id)
    return None


def reconnect(home: Home, experiment: Experiment) -> Experiment:
    """The experiment with the addresses of its engines as they are now; embedded ones may have been restarted."""
    engines = ensure_engines(
        home,
        None if experiment.local_ray else experiment.address,
        None if experiment.local_mlflow else experiment.request.tracking_uri,
    )
    return experiment.at(engines.address, engines.tracking_uri)


def reconnect_tracking(home: Home, experiment: Experiment) -> Experiment:
    """The experiment with its tracking server's address as it is now, for what needs no Ray."""
    if experiment.local_mlflow:
        return experiment.at(experiment.address, Services(home).ensure_mlflow().url)
    return experiment.at(experiment.address, check_mlflow(experiment.request.tracking_uri))
