"""The Ray job of an experiment: sweep, then champion. Run as `python -m effnet_cluster.orchestration.driver FILE`.

With `--lost` before FILE it closes what a driver left open that could not do so itself.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..datasets import EffnetClusterError, one_line
from .faults import cause
from .logs import configure_logging
from .request import ExperimentRequest
from .search.sources import PlannedSource, TrialSource
from .tracking.models import register_champion
from .tracking.records import Outcome
from .tracking.runs import Tracker
from .tracking.server import PATIENCE_S
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
_FINISHED = (Outcome.COMPLETED, Outcome.STOPPED)
_log = logging.getLogger(f"{__package__}.driver")  # its __name__ is `__main__` in a job


def run(request: ExperimentRequest) -> bool:
    """Run an experiment to its end on the cluster that this process belongs to.

    Returns:
        Whether every trial completed, or was stopped by the scheduler.

    Raises:
        UserError, DataError: what the user can correct.
    """
    import ray

    tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
    Storage(request.storage).claim(request.uid)
    # Ray tells the driver which cluster is its own. Processes of the job would otherwise look for one on their machine.
    cluster = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "auto")}
    ray.init(address="auto", log_to_driver=True, runtime_env={"env_vars": cluster})
    spec = request.spec
    sweep_id = tracker.ensure_sweep(params_of(spec), spec.to_yaml(), request.plan.data_digest)
    try:
        errors = _sweep(request, tracker, sweep_id)
    except (SystemExit, KeyboardInterrupt):  # how Ray stops a job
        tracker.finish(sweep_id, Outcome.CANCELLED)
        raise
    except Exception as error:
        tracker.finish(sweep_id, Outcome.FAILED, reason=str(error) or type(error).__name__)
        raise
    return conclude(request, tracker, sweep_id, errors)


def _sweep(request: ExperimentRequest, tracker: Tracker, sweep_id: str) -> dict[str, str]:
    """Run the trials that are not completed; returns the errors of those that failed, by the trials' ids."""
    from .allocation import share_out
    from .measurements import learn
    from .nodes import alive_nodes, check_storage, measured_costs, tell_autoscaler
    from .sweep import run_sweep
    from .trial import SweepContext

    nodes = alive_nodes()
    shares = share_out(nodes, request.spec.execution, request.plan.examples, measured_costs(nodes, request))
    check_storage(nodes, request.storage, request.uid)
    before = {record.trial_id for record in tracker.trials()}
    source = _source(request, tracker)
    if source.exhausted:
        return {}
    tell_autoscaler(shares.demand_of(trial) for trial in request.plan.typical)
    try:
        errors = run_sweep(SweepContext(request, sweep_id, shares), tracker, source)
    finally:
        tell_autoscaler(())
    if request.spec.scheduling.name == "none":  # others pause trials, and a run's time is not the trial's
        fresh = [record for record in tracker.trials() if record.trial_id not in before]
        learn(fresh, request.plan, shares, Path(request.cache_root))
    return {trial_id: one_line(cause(error)) for trial_id, error in errors.items()}


def _source(request: ExperimentRequest, tracker: Tracker) -> TrialSource:
    """What is left to run: trials that are not finished, or what a search makes up besides those."""
    plan, search = request.plan, request.spec.search
    finished = {record.trial_id: record for record in tracker.trials() if record.outcome in _FINISHED}
    if not search.adaptive:
        return PlannedSource([trial for trial in plan.trials if trial.trial_id not in finished])
    from .search.optuna_source import OptunaSource

    source = OptunaSource(plan.spec.space, search, plan.spec.search_seed, plan.trial_of, Storage(request.storage))
    for record in finished.values():  # a former driver may have ended between a trial's end and its note of it
        values = {"top1": record.best_top1, "seconds": record.seconds, "share": record.epochs_done / record.epochs}
        source.ended(
            record.trial_id, record.outcome, {name: found for name, found in values.items() if found is not None}
        )
    return source


def conclude(request: ExperimentRequest, tracker: Tracker, sweep_id: str, errors: Mapping[str, str]) -> bool:
    """Register the best model and close the sweep's run, by what the trials' own runs say.

    Args:
        request: what was run.
        tracker: of its runs.
        sweep_id: the sweep's run.
        errors: of the trials that failed, by their ids. A trial whose process was lost has not closed its run itself.

    Returns:
        Whether every trial completed, or was stopped by the scheduler.
    """
    records = tracker.trials()
    lost = [record for record in records if not record.outcome.is_terminal]
    for record in lost:
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
    missing = count - sum(record.outcome in _FINISHED for record in records)
    reason = f"{missing} of {count} trials did not complete" if missing else ""
    tracker.finish(sweep_id, Outcome.FAILED if missing else Outcome.COMPLETED, reason)
    for record in records:
        if record.outcome is Outcome.FAILED:
            _log.error("%s", record.reason or "failed", extra={"trial": record.trial_id})
    for trial_id in sorted(errors.keys() - {record.trial_id for record in records}):
        _log.error("%s", errors[trial_id], extra={"trial": trial_id})
    return not missing


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: all trials completed; 1: not all, or an engine failed; 2: the request cannot run."""
    configure_logging()
    try:
        request = ExperimentRequest.model_validate_json(Path(arguments[-1]).read_bytes())
        if "--lost" in arguments:
            tracker = Tracker(request.tracking_uri, request.spec.name, request.uid, PATIENCE_S)
            tracker.end_unfinished(Outcome.FAILED, "the driver was killed")
            _log.error("the driver was killed; `effnet-cluster resume %s` goes on", request.spec.name)
            return 0
        return 0 if run(request) else 1
    except EffnetClusterError as error:
        _log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
