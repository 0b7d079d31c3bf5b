"""The Ray job of an experiment: plan, sweep, champion. Run as `python -m effnet_cluster.orchestration.driver FILE`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ..datasets import DataError, open_dataset
from .errors import UserError
from .plan import Plan, make_plan
from .spec import ExperimentSpec
from .tracking.runs import Outcome, Tracker

EXPERIMENT_FILE = "experiment.json"


@dataclass(frozen=True)
class ExperimentRequest:
    """What the command line hands to the driver, wherever that runs.

    `storage` is a folder or URL that every node sees; `cache_root` a folder that each node has for itself.
    """

    spec: ExperimentSpec
    tracking_uri: str
    storage: str
    cache_root: str

    def to_json(self) -> str:
        """The content of the job's `experiment.json`."""
        return json.dumps(asdict(self) | {"spec": self.spec.model_dump(mode="json")}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ExperimentRequest:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(**fields | {"spec": ExperimentSpec.parse(fields["spec"])})


def run(request: ExperimentRequest) -> bool:
    """Run an experiment to its end on the cluster that this process belongs to; returns whether every trial completed.

    Raises:
        UserError, DataError: what the user can correct.
    """
    import ray

    from .sweep import resources_for, run_sweep
    from .trial import TrialContext

    spec = request.spec
    plan = make_plan(spec, open_dataset(spec.data, Path(request.cache_root), spec.cache_limit))
    tracker = Tracker(request.tracking_uri, spec.name)
    ray.init(address="auto", log_to_driver=True)
    use_gpu, cpus, concurrent = resources_for(plan)
    parent_id = tracker.ensure_parent(plan)
    context = TrialContext(
        experiment=spec.name,
        tracking_uri=request.tracking_uri,
        parent_id=parent_id,
        storage=request.storage,
        cache_root=request.cache_root,
        data=spec.data,
        data_digest=plan.data_digest,
        spec_digest=plan.spec_digest,
        worker_counts=spec.worker_counts,
        cpus_per_worker=cpus,
        use_gpu=use_gpu,
        loader_workers=spec.loader_workers,
        cache_limit=spec.cache_limit,
        on_corrupt=spec.on_corrupt,
        max_failures=spec.max_failures,
        checkpoint_steps=spec.checkpoint_steps,
    )
    try:
        run_sweep(plan, context, concurrent)
    except (SystemExit, KeyboardInterrupt):  # how Ray stops a job
        tracker.finish(parent_id, Outcome.CANCELLED)
        raise
    except Exception as error:
        tracker.finish(parent_id, Outcome.FAILED, reason=str(error) or type(error).__name__)
        raise
    return _conclude(plan, tracker, parent_id)


def _conclude(plan: Plan, tracker: Tracker, parent_id: str) -> bool:
    """Register the best model and close the parent run, by what the trials' own runs say."""
    records = tracker.trials()
    done = [record for record in records if record.outcome is Outcome.COMPLETED]
    best = max(done, key=lambda record: record.metrics["val/best_top1"], default=None)
    if best is not None and best.model_uri:
        address = tracker.register(best.run_id, best.model_uri)
        print(f"best: {best.trial_id}  val top-1 {best.metrics['val/best_top1']:.4f}  {address}", flush=True)
    complete = len(done) == len(plan.trials)
    missing = len(plan.trials) - len(done)
    reason = "" if complete else f"{missing} of {len(plan.trials)} trials did not complete"
    tracker.finish(parent_id, Outcome.COMPLETED if complete else Outcome.FAILED, reason)
    for record in records:
        if record.outcome is Outcome.FAILED:
            print(f"error: {record.trial_id}: {record.reason}", file=sys.stderr)
    return complete


def main(path: str) -> int:
    """Exit code 0: all trials completed; 1: not all; 2: the request cannot run."""
    try:
        return 0 if run(ExperimentRequest.from_json(Path(path).read_text())) else 1
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
