"""The Ray job of an experiment: sweep, then champion. Run as `python -m effnet_cluster.orchestration.driver FILE`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..datasets import EffnetClusterError
from .logs import configure_logging
from .request import ExperimentRequest
from .tracking.models import register_champion
from .tracking.records import Outcome
from .tracking.runs import Tracker
from .training.settings import params_of

if TYPE_CHECKING:
    from .plan import Plan

EXPERIMENT_FILE = "experiment.json"
_log = logging.getLogger(f"{__package__}.driver")  # its __name__ is `__main__` in a job


def run(request: ExperimentRequest) -> bool:
    """Run an experiment to its end on the cluster that this process belongs to; returns whether every trial completed.

    Raises:
        UserError, DataError: what the user can correct.
    """
    import ray

    from .sweep import run_sweep, worker_resources
    from .trial import SweepContext

    tracker = Tracker(request.tracking_uri, request.spec.name)
    # Ray tells the driver which cluster is its own. Processes of the job would otherwise look for one on their machine.
    cluster = {"RAY_ADDRESS": os.environ.get("RAY_ADDRESS", "auto")}
    ray.init(address="auto", log_to_driver=True, runtime_env={"env_vars": cluster})
    resources, concurrent = worker_resources(request.plan)
    spec = request.spec
    sweep_id = tracker.ensure_sweep(params_of(spec), spec.to_yaml(), request.plan.data_digest)
    try:
        run_sweep(SweepContext(request, sweep_id, resources), concurrent)
    except (SystemExit, KeyboardInterrupt):  # how Ray stops a job
        tracker.finish(sweep_id, Outcome.CANCELLED)
        raise
    except Exception as error:
        tracker.finish(sweep_id, Outcome.FAILED, reason=str(error) or type(error).__name__)
        raise
    return _conclude(request.plan, tracker, sweep_id)


def _conclude(plan: Plan, tracker: Tracker, sweep_id: str) -> bool:
    """Register the best model and close the sweep's run, by what the trials' own runs say."""
    records = tracker.trials()
    done = [record for record in records if record.outcome is Outcome.COMPLETED]
    best = max(done, key=lambda record: record.best_top1 or 0.0, default=None)
    if best is not None and best.model_uri:
        address = register_champion(tracker, best.run_id, best.model_uri)
        _log.info("best: %s  val top-1 %.4f  %s", best.trial_id, best.best_top1, address)
    complete = len(done) == len(plan.trials)
    missing = len(plan.trials) - len(done)
    reason = "" if complete else f"{missing} of {len(plan.trials)} trials did not complete"
    tracker.finish(sweep_id, Outcome.COMPLETED if complete else Outcome.FAILED, reason)
    for record in records:
        if record.outcome is Outcome.FAILED:
            _log.error("%s", record.reason or "failed", extra={"trial": record.trial_id})
    return complete


def main(path: str) -> int:
    """Exit code 0: all trials completed; 1: not all, or an engine failed; 2: the request cannot run."""
    configure_logging()
    try:
        return 0 if run(ExperimentRequest.model_validate_json(Path(path).read_text())) else 1
    except EffnetClusterError as error:
        _log.error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
