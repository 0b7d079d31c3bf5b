"""What can be done to an experiment as a whole: launch, resume, stop."""

from __future__ import annotations

from dataclasses import replace

from ..orchestration.errors import UserError
from ..orchestration.request import ExperimentRequest
from ..orchestration.training.execution import Execution
from .engines import Engines, ensure_engines
from .experiments import Experiment, Experiments, next_job
from .home import Home
from .jobs import Jobs


def launch(home: Home, request: ExperimentRequest, engines: Engines) -> Experiment:
    """Submit a new experiment and record it. Nothing is recorded if the cluster refuses the job."""
    experiments = Experiments(home)
    experiments.require_free(request.spec.name)
    experiment = experiments.new(request, engines)
    Jobs(engines.address).submit(request, experiment.job)
    experiments.save(experiment)
    return experiment


def resume(home: Home, name: str, execution: Execution) -> Experiment:
    """Run what is left of an experiment: unfinished trials go on from their checkpoints, finished ones stay.

    Args:
        home: whose experiment.
        name: the experiment's.
        execution: how its trials run from now on.

    Raises:
        UserError: there is no such experiment, it still runs, or `execution` does not fit it.
    """
    experiments = Experiments(home)
    experiment = reconnect(home, experiments.load(name))
    jobs = Jobs(experiment.address)
    if jobs.is_active(experiment.job):
        raise UserError(f"experiment '{name}' is running; `effnet-cluster logs {name} -f` follows it")
    fresh = next_job(experiment)
    request = fresh.request
    fresh = replace(fresh, request=request.model_copy(update={"plan": request.plan.run_by(execution)}))
    jobs.submit(fresh.request, fresh.job)
    experiments.save(fresh)
    return fresh


def stop(home: Home, name: str) -> bool:
    """Stop an experiment's job and mark what was unfinished as cancelled; False if nothing was running."""
    experiment = reconnect(home, Experiments(home).load(name))
    jobs = Jobs(experiment.address)
    active = jobs.is_active(experiment.job)
    if active:
        jobs.stop(experiment.job)
    # Also where the job was lost with its cluster: its runs must not look alive for ever.
    experiment.tracker.cancel_unfinished()
    return active


def reconnect(home: Home, experiment: Experiment) -> Experiment:
    """The experiment with the addresses of its engines as they are now; embedded ones may have been restarted."""
    engines = ensure_engines(
        home,
        None if experiment.local_ray else experiment.address,
        None if experiment.local_mlflow else experiment.request.tracking_uri,
    )
    request = experiment.request.model_copy(update={"tracking_uri": engines.tracking_uri})
    return replace(experiment, request=request, address=engines.address)
