"""A thousand trials that do nothing: Ray Tune, our order and our bookkeeping cost as much for the last as at first."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray import tune
from ray.tune.result import RESULT_DUPLICATE

from effnet_cluster.datasets import DIGITS, open_dataset
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.running.nodes import alive_nodes
from effnet_cluster.orchestration.running.sweep import run_sweep
from effnet_cluster.orchestration.search.sources import PlannedSource
from effnet_cluster.orchestration.sizing.allocation import share_out
from effnet_cluster.orchestration.spec import ExperimentSpec

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(7200)]
TRIALS, HUNDRED = 1000, 100
# A trial's process takes seconds of a core to begin, whoever it is for; what is compared is the driver's own time.
AT_A_TIME = 4


class Idle(tune.Trainable):  # type: ignore[misc]
    """A trial that has ended when it begins."""

    def setup(self, config: dict[str, Any], context: Any) -> None:
        """See `Trial`."""

    def step(self) -> dict[str, Any]:
        return {RESULT_DUPLICATE: True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}


class Watched(PlannedSource):
    """Notes what of a core this process had taken when each trial ended, and what memory it had."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ended_at: list[float] = []
        self.memory: list[int] = []

    def ended(self, *args: Any) -> None:
        super().ended(*args)
        self.ended_at.append(time.process_time())
        self.memory.append(psutil.Process().memory_info().rss)


def test_a_thousand_trials_cost_the_same_each(tmp_path: Path) -> None:
    manifest = open_dataset(DIGITS, tmp_path / "cache", None, typed=False)
    fields = {"name": "x", "variants": "b0-w0.25-d0.25", "seeds": list(range(TRIALS)), "recipe": {"epochs": 1}}
    plan = make_plan(ExperimentSpec.parse(fields), manifest)
    request = ExperimentRequest(
        uid="u", job="x", plan=plan, tracking_uri="", storage=str(tmp_path / "storage"), cache_root=str(tmp_path)
    )
    ray.init(num_cpus=AT_A_TIME, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        shares = share_out(alive_nodes(), plan.spec.execution, plan.trials)
        context: Any = SimpleNamespace(request=request, shares=shares)
        tracker: Any = SimpleNamespace(trials=list)
        source = Watched(plan.trials)
        began = time.process_time()
        failed = run_sweep(context, tracker, source, Idle)
    finally:
        ray.shutdown()
    assert failed == {}
    assert len(source.ended_at) == TRIALS
    # The first ten warm up: Ray starts processes ahead.
    marks = [began, *source.ended_at]
    seconds = [marks[at + HUNDRED] - marks[at] for at in range(HUNDRED // 10, TRIALS - HUNDRED + 1, HUNDRED)]
    memory = [round(source.memory[at] / 2**20) for at in range(HUNDRED - 1, TRIALS, HUNDRED)]
    print("seconds of a core per hundred:", [round(each, 1) for each in seconds], "MiB of the driver:", memory)
    (state,) = tmp_path.glob("storage/tune/x/experiment_state-*.json")
    print("bytes of Tune's state per trial:", state.stat().st_size / TRIALS)
    assert state.stat().st_size <= 10_000 * TRIALS
    assert seconds[-1] <= 1.3 * seconds[0], seconds
    assert memory[-1] <= 1.1 * memory[0], memory
