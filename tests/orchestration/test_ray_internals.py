"""What Ray does not promise, as far as it is used: the names and arguments, and one training by either controller."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from effnet_cluster.orchestration.running import ray_internals
from effnet_cluster.orchestration.running.actor_groups import GroupsInActor
from effnet_cluster.orchestration.running.faults import Fault, classify
from effnet_cluster.orchestration.running.ray_internals import GroupsInProcess
from effnet_cluster.orchestration.training.errors import PreemptedError
from effnet_cluster.orchestration.training.preemption import asked_to_leave

WORKERS = 2


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (
            TrainController.__init__,
            "self train_fn_ref train_run_context scaling_policy failure_policy callbacks validation_config",
        ),
        (TrainController.run, "self"),
        (TrainController.get_result, "self"),
        (DataParallelTrainer._create_default_callbacks, "self"),
        (DataParallelTrainer._initialize_and_run_controller, "self controller_init_kwargs"),
        (ElasticScalingPolicy.__init__, "self scaling_config"),
        (ElasticScalingPolicy._count_possible_workers, "self reserved_resources"),
        (FixedScalingPolicy._maybe_send_resource_request, "self"),
        (FixedScalingPolicy.after_controller_start, "self train_run_context"),
        (ControllerCallback.before_controller_execute_resize_decision, "self resize_decision"),
        (WorkerGroupCallback.after_worker_group_start, "self worker_group"),
        (WorkerGroupCallback.before_worker_group_shutdown, "self worker_group"),
        (WorkerGroup.execute, "self fn fn_args fn_kwargs"),
        (WorkerGroup.execute_async, "self fn fn_args fn_kwargs"),
        (WorkerGroup.execute_single, "self rank fn fn_args fn_kwargs"),
        (WorkerGroup.poll_status, "self timeout"),
        (DatasetsCallback.__init__, "self train_run_context datasets"),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_what_is_called_or_overridden_takes_what_it_took(function: Any, arguments: str) -> None:
    assert list(inspect.signature(function).parameters) == arguments.split()


def test_the_controller_is_a_plain_class_whose_run_is_a_coroutine() -> None:
    assert inspect.isclass(TrainController)
    assert inspect.iscoroutinefunction(TrainController.run)
    assert not inspect.iscoroutinefunction(TrainController.get_result)


@pytest.mark.parametrize(("cores", "count"), [(1, 0), (2, 2), (3, 2), (4, 4), (9, 4)])
def test_an_elastic_trial_never_has_a_number_of_workers_that_is_left_out(cores: int, count: int) -> None:
    policy = ray_internals.ElasticWorkers((2, 4), ScalingConfig(num_workers=(2, 4)))
    assert policy._count_possible_workers({"node": {"CPU": cores}}) == count


@pytest.fixture(scope="module")
def cluster(without_token: None) -> Iterator[None]:
    """A Ray of the tests' own, from a folder without what Ray would upload."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        ray.init(num_cpus=WORKERS, include_dashboard=False, configure_logging=False, log_to_driver=False)
        yield
        ray.shutdown()


def train_and_report(config: dict[str, Any]) -> None:
    """Two reports of what a rank knows of itself and its group; then it leaves, but only when it is asked to."""
    import torch
    import torch.distributed as dist

    context = ray.train.get_context()
    ranks = torch.tensor([context.get_world_rank()])
    dist.all_reduce(ranks)
    assert not any([asked_to_leave(), config["is_preempted"]()])
    for number in range(2):
        ray.train.report({"rank": context.get_world_rank(), "sum": ranks.item(), "number": number, "pid": os.getpid()})
    if config["inside"]:
        # Whatever interface the machine's name stands for; both ranks are on this node.
        for library in ("GLOO", "NCCL"):
            addresses = psutil.net_if_addrs()[os.environ[f"{library}_SOCKET_IFNAME"]]
            assert "127.0.0.1" in {found.address for found in addresses}
    left = torch.zeros(1)
    while not left.item():
        left[0] = any([asked_to_leave(), config["is_preempted"]()])
        dist.all_reduce(left, dist.ReduceOp.MAX)
        time.sleep(0.1)
    raise PreemptedError("asked to leave")


def trial(config: dict[str, Any]) -> None:
    """What a trial does, with a loop that needs no data."""
    scaling = ScalingConfig(num_workers=WORKERS)
    run = RunConfig(name="inner", storage_path=config["storage"], failure_config=FailureConfig(max_failures=0))
    reports: list[dict[str, Any]] = []

    def take(report: dict[str, Any]) -> None:
        reports.append(report)
        if len(reports) == 2:
            threading.Thread(target=groups.ask_to_leave).start()

    kind = GroupsInProcess if config["inside"] else GroupsInActor
    groups: Any = kind(take, train_and_report)
    try:
        groups.fit({"inside": config["inside"]}, (WORKERS,), scaling, run)
    except WorkerGroupError as error:
        faults = [classify(failure) for failure in error.worker_failures.values()]
    for report in reports:
        tune.report({**report, "faults": faults})


@pytest.mark.parametrize("inside", [True, False], ids=["in the trial's process", "in Ray's actor"])
@pytest.mark.timeout(300)
def test_a_group_starts_reports_and_leaves_when_it_is_asked_to(inside: bool, cluster: None, tmp_path: Path) -> None:
    tuner = tune.Tuner(
        tune.with_resources(trial, {"memory": 2**20}),
        param_space={"inside": inside, "storage": str(tmp_path / "train")},
        run_config=tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0, callbacks=[]),
    )
    (result,) = tuner.fit()
    assert result.error is None
    assert list(result.metrics_dataframe["number"]) == [0, 1]
    assert set(result.metrics_dataframe["rank"]) == {0}
    assert set(result.metrics_dataframe["sum"]) == {1}
    assert result.metrics["faults"] == [Fault.PREEMPTED] * WORKERS
