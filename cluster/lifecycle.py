"""What can be done to an experiment as a whole: launch, resume, stop, and note that it has ended."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace
from pathlib import Path

from ..datasets import DataError
from ..orchestration.cost import CostModel
from ..orchestration.errors import EngineError, NameTakenError, UserError
from ..orchestration.plan import Plan
from ..orchestration.request import ExperimentRequest
from ..orchestration.tracking.records import Outcome
from ..orchestration.training.execution import Execution
from ..orchestration.training.storage import OWNER_FILE, Storage
from .engines import Engines, ensure_engines
from .experiments import Experiment, Experiments, next_job
from .home import Home
from .jobs import Jobs
from .services import Services

_LOCK = "experiments"
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_LOST = "its job ended without a word: the driver was killed, or its node was lost"


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
        )
        experiment = experiments.new(request, engines)
        experiments.save(experiment)
    try:
        if experiment.local_ray:  # else the driver does; this machine need not see the storage
            Storage(request.storage).claim(request.uid)
        experiment.tracker.claim()
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
        return jobs.status(job) != "UNKNOWN"
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
    experiments = Experiments(home)
    found = experiments.load(name)
    _require_data(home, found.request.plan, execution)
    found = reconnect(home, found)  # which may take a while; others need not wait for it
    jobs = Jobs(found.address)
    with home.locked(_LOCK):
        experiment = _at(experiments.load(name), found.address, found.request.tracking_uri)
        if jobs.is_active(experiment.job):
            raise UserError(f"experiment '{name}' is running; `effnet-cluster logs {name} -f` follows it")
        fresh = next_job(experiment)
        request = fresh.request
        fresh = replace(fresh, request=request.model_copy(update={"plan": request.plan.run_by(execution)}))
        experiments.save(fresh)
        try:
            jobs.submit(fresh.request)
        except BaseException:
            if not _may_be_known(jobs, fresh.job):
                experiments.save(experiment)
            raise
    return fresh


def _require_data(home: Home, plan: Plan, execution: Execution) -> None:
    """Refuse to go on with other data under the name of the old ones."""
    try:
        manifest = home.open_dataset(plan.spec.data, execution.cache_limit, typed=False)
    except DataError as error:
        digest = plan.data_digest[:12]
        raise UserError(f"the data of '{plan.spec.name}', digest {digest}, cannot be opened: {error}") from error
    plan.require_data(manifest)


def stop(home: Home, name: str) -> bool:
    """Stop an experiment's job and mark what was unfinished as cancelled; False if nothing was running."""
    experiment = reconnect(home, Experiments(home).load(name))
    jobs = Jobs(experiment.address)
    status = jobs.status(experiment.job)
    if status in (*_ENDED, "UNKNOWN"):
        note_end(home, experiment, status)
        return False
    jobs.stop(experiment.job)
    experiment.tracker.cancel()
    Experiments(home).save(replace(experiment, ended="STOPPED"))
    return True


def note_end(home: Home, experiment: Experiment, status: str) -> str:
    """Note in the record that the latest job has ended, and close the runs that it left open.

    A job that is killed, or lost with its cluster, cannot do so itself; its runs would look alive for ever.

    Args:
        home: whose experiment.
        experiment: with its engines' addresses as they are now.
        status: its job's, in Ray's words; `UNKNOWN` is what a cluster says that has forgotten the job.

    Returns:
        The status that was noted.

    Raises:
        EngineError: the tracking server does not answer.
    """
    experiment.tracker.end_unfinished(Outcome.FAILED, _LOST)
    if status == "UNKNOWN":
        outcome = experiment.tracker.sweep_outcome() or Outcome.FAILED
        status = {Outcome.COMPLETED: "SUCCEEDED", Outcome.CANCELLED: "STOPPED"}.get(outcome, "FAILED")
    Experiments(home).save(replace(experiment, ended=status))
    return status


def job_state(home: Home, experiment: Experiment) -> str:
    """The latest job's status in Ray's words, asked without starting anything.

    `UNKNOWN` where its cluster or its tracking server is gone or does not answer, or the home does not say which it is.
    """
    if experiment.ended:
        return experiment.ended
    try:
        running = Services(home).running()
    except EngineError:
        return "UNKNOWN"
    ray, mlflow = running.get("ray"), running.get("mlflow")
    if (experiment.local_ray and not ray) or (experiment.local_mlflow and not mlflow):
        return "UNKNOWN"
    address = ray.url if experiment.local_ray and ray else experiment.address
    uri = mlflow.url if experiment.local_mlflow and mlflow else experiment.request.tracking_uri
    experiment = _at(experiment, address, uri)
    try:
        status = Jobs(address).status(experiment.job)
        return note_end(home, experiment, status) if status in (*_ENDED, "UNKNOWN") else status
    except (EngineError, UserError, OSError):
        return "UNKNOWN"


def reconnect(home: Home, experiment: Experiment) -> Experiment:
    """The experiment with the addresses of its engines as they are now; embedded ones may have been restarted."""
    engines = ensure_engines(
        home,
        None if experiment.local_ray else experiment.address,
        None if experiment.local_mlflow else experiment.request.tracking_uri,
    )
    return _at(experiment, engines.address, engines.tracking_uri)


def _at(experiment: Experiment, address: str, tracking_uri: str) -> Experiment:
    request = experiment.request.model_copy(update={"tracking_uri": tracking_uri})
    return replace(experiment, request=request, address=address)
