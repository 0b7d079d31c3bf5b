"""The Ray job of an experiment: sweep, then champion. Run as `python -m effnet_cluster.orchestration.driver FILE`.

With `--lost` before FILE it closes what a driver left open that could not do so itself.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from ..datasets import EffnetClusterError, one_line
from .logs import configure_logging
from .plan import Plan
from .request import ExperimentRequest, note_data
from .running.faults import cause
from .scheduling import starting_order
from .search.sources import PlannedSource, TrialSource
from .tracking.models import register_champion
from .tracking.records import Outcome, TrialRecord
from .tracking.runs import Tracker
from .tracking.server import PATIENCE_S
from .tracking.stop_requests import CANCELLED_WHILE_WAITING, StopRequests
from .training.settings import params_of
from .training.storage import Storage

EXPERIMENT_FILE = "experiment.json"
_COMMAND = "python -m effnet_cluster.orchestration.driver"
# A code above 2 is a signal's: the driver was killed, for example for the node's memory.
ENTRYPOINT = (
    f"{_COMMAND} {EXPERIMENT_FILE}; code=$?; "
    f"if [ $code -gt 2 ]; then {_COMMAND} --lost {EXPERIMENT_FILE}; fi; exit $code"
)
"""The shell command of the job."""
_log = logging.getLogger(f"{__package__}.driver")  # its __name__ is `__main__` in a job


def run(request: ExperimentRequest) -> bool:
    """Run an experiment to its end on the cluster that this process belongs to.

    Returns:
        Whether every trial is finished, or the user cancelled it.

    Raises:
        UserError, DataError: what the user can correct.
    """
    import ray

    from .running.fork_server import fork_server

    forks = request.local and request.spec.execution.fork_workers
    with fork_server() if forks else nullcontext() as python:
        try:
            return _run(request, python)
        finally:
            ray.shutdown()  # before the server ends, and its forks with it


def _run(request: ExperimentRequest, python: str | None) -> bool:
    """See `run`; `python` is what Ray runs for Python in the job's workers."""
    import ray

    tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
    Storage(request.storage).claim(request.uid)
    # Ray tells the driver which cluster is its own. Processes of the job would otherwise look for one on their machine.
    cluster = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "auto")}
    workers = {"env_vars": cluster, **({"py_executable": python} if python else {})}
    ray.init(address="auto", log_to_driver=True, runtime_env=workers)
    spec = request.spec
    sweep_id = tracker.ensure_sweep(params_of(spec), spec.to_yaml(), request.plan.data_digest)
    note_data(request, tracker, sweep_id)
    return _run_sweep(request, tracker, sweep_id)


def _run_sweep(request: ExperimentRequest, tracker: Tracker, sweep_id: str) -> bool:
    """Run the sweep in its run, whose report is written anew as trials end; returns what `conclude` does."""
    from .running.report_keeper import ReportKeeper

    report = ReportKeeper(request, sweep_id)
    try:
        with report:
            errors = _sweep(request, tracker, sweep_id)
    except (SystemExit, KeyboardInterrupt):  # how Ray stops a job
        tracker.finish(sweep_id, Outcome.CANCELLED)
        raise
    except Exception as error:
        tracker.finish(sweep_id, Outcome.FAILED, reason=str(error) or type(error).__name__)
        raise
    finished = conclude(request, tracker, sweep_id, errors)
    report.write()
    return finished


def _sweep(request: ExperimentRequest, tracker: Tracker, sweep_id: str) -> dict[str, str]:
    """Run the trials that are not finished; returns the errors of those that failed, by the trials' ids."""
    from .measurements import learn
    from .node_facts import versions
    from .preflight import require_nodes
    from .running.left_groups import remove_left_groups
    from .running.nodes import alive_nodes, ask_nodes, measured_costs, tell_autoscaler
    from .running.sweep import run_sweep
    from .running.trial import SweepContext
    from .sizing.allocation import share_out

    remove_left_groups()
    nodes = alive_nodes()
    records = {record.trial_id: record for record in tracker.trials()}
    unstarted = [trial for trial in request.plan.examples if trial.trial_id not in records]
    shares = share_out(nodes, request.spec.execution, request.plan.examples, measured_costs(nodes, request))
    require_nodes(request.plan, unstarted, ask_nodes(nodes, request), versions(), shares.use_gpu)
    source = _source(request, tracker, records)
    if source.exhausted:
        return {}
    tell_autoscaler(shares.demand_of(trial) for trial in request.plan.typical)
    try:
        errors = run_sweep(SweepContext(request, sweep_id, shares), tracker, source)
    finally:
        tell_autoscaler(())
    if request.spec.scheduling.name == "none":  # others pause trials, and a run's time is not the trial's
        fresh = [record for record in tracker.trials() if record.trial_id not in records]
        learn(fresh, request.plan, shares, Path(request.cache_root))
    return {trial_id: one_line(cause(error)) for trial_id, error in errors.items()}


def _source(request: ExperimentRequest, tracker: Tracker, records: Mapping[str, TrialRecord]) -> TrialSource:
    """What is left to run: trials that are not finished, or what a search makes up besides those.

    The runs that they have from an earlier job are marked as pending.
    """
    plan, search = request.plan, request.spec.search
    tracker.end_half_ended()
    done = {name: record for name, record in records.items() if _is_done(plan, record)}
    for record in records.values():
        if record.trial_id not in done:
            tracker.wait_for_turn(record.run_id)
    if not search.adaptive:
        left = (trial for trial in plan.trials if trial.trial_id not in done)
        return PlannedSource(starting_order(left, request.spec.scheduling))
    from .search.optuna_source import OptunaSource

    storage = Storage(request.storage)
    source = OptunaSource(plan.spec.space, search, plan.spec.search_seed, plan.trial_of, storage, done)
    for record in done.values():  # a former driver may have ended between a trial's end and its note of it
        values = {"top1": record.best_top1, "seconds": record.seconds, "share": record.epochs_done / record.epochs}
        source.ended(
            record.trial_id, record.outcome, {name: found for name, found in values.items() if found is not None}
        )
    return source


def _is_done(plan: Plan, record: TrialRecord) -> bool:
    """Whether nothing is left of a trial that has a run. A completed one may have got more epochs since."""
    if not record.outcome.is_finished:
        return False
    trial = plan.trials_by_id.get(record.trial_id)
    return trial is None or record.outcome is Outcome.STOPPED or record.epochs >= trial.recipe.epochs


def conclude(request: ExperimentRequest, tracker: Tracker, sweep_id: str, errors: Mapping[str, str]) -> bool:
    """Register the best model and close the sweep's run, by what the trials' own runs say.

    Args:
        request: what was run.
        tracker: of its runs.
        sweep_id: the sweep's run.
        errors: of the trials that failed, by their ids. A trial whose process was lost has not closed its run itself.

    Returns:
        Whether every trial is finished, or the user cancelled it.
    """
    records = tracker.trials()
    lost = [record for record in records if not record.outcome.is_terminal]
    unwanted = StopRequests(tracker).all() if lost else frozenset()
    for record in lost:
        if record.outcome is Outcome.PENDING and record.trial_id in unwanted:
            tracker.finish(record.run_id, Outcome.CANCELLED, CANCELLED_WHILE_WAITING)
            continue
        reason = errors.get(record.trial_id) or "the trial's process was lost"
        tracker.finish(record.run_id, Outcome.FAILED, reason)
    if lost:
        records = tracker.trials()
    done = [record for record in records if record.outcome is Outcome.COMPLETED]
    best = max(done, key=lambda record: record.best_top1 or 0.0, default=None)
    if best is not None and best.model_uri:
        address = register_champion(tracker, best.run_id, best.model_uri)
        _log.info("best: %s  val top-1 %.4f  %s", best.trial_id, best.best_top1, address)
    count = request.plan.trial_count
    left = count - sum(_is_done(request.plan, record) for record in records)
    cancelled = sum(record.outcome is Outcome.CANCELLED for record in records)
    if left > cancelled:
        tracker.finish(sweep_id, Outcome.FAILED, f"{left} of {count} trials did not complete")
    elif left:
        tracker.finish(sweep_id, Outcome.CANCELLED, f"{left} of {count} trials were cancelled")
    else:
        tracker.finish(sweep_id, Outcome.COMPLETED)
    for record in records:
        if record.outcome is Outcome.FAILED:
            _log.error("%s", record.reason or "failed", extra={"trial": record.trial_id})
    for trial_id in sorted(errors.keys() - {record.trial_id for record in records}):
        _log.error("%s", errors[trial_id], extra={"trial": trial_id})
    return left <= cancelled


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: no trial failed; 1: one did, or an engine failed; 2: the request cannot run."""
    configure_logging()
    try:
        request = ExperimentRequest.model_validate_json(Path(arguments[-1]).read_bytes())
        if "--lost" in arguments:
            tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
            tracker.end_unfinished(Outcome.INTERRUPTED, "the driver was killed")
            _log.error("the driver was killed; `effnet-cluster resume %s` goes on", request.spec.name)
            return 0
        return 0 if run(request) else 1
    except EffnetClusterError as error:
        _log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
