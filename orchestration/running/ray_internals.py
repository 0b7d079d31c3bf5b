"""All use of what Ray does not promise (`ray.*._internal`): Ray Train's controller runs in the process of the trial.

The public trainer puts the controller and two helpers into actors of their own. Each takes 110 MB or more, a second or
more to start, and 1% of a core for as long as it lives. `tests/orchestration/test_ray_internals.py` holds what is used
here; `--controller actor` goes without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, UserCallback
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from .train_worker import (
    Worker,
    ask_to_leave,
    join_process_group,
    leave_process_group,
    node_id,
    rendezvous_address,
    train_worker,
)

# Seconds that workers have to save before their group is resized, and between two looks whether they have.
_GRACE_S, _POLL_S = 30.0, 0.2
_log = logging.getLogger(__name__)


class GroupsInProcess:
    """The worker groups of one trial, one after the other, whose controller runs in this process. See `WorkerGroups`.

    Args:
        report: called with the metrics of rank 0 after each epoch.
        worker: what each worker runs.
    """

    def __init__(self, report: Callable[[dict[str, Any]], None], worker: Worker = train_worker) -> None:
        self._worker = worker
        self._report, self._group = _Report(report), _LeavingGroup()

    def fit(
        self, config: dict[str, Any], counts: tuple[int, ...], scaling_config: ScalingConfig, run_config: RunConfig
    ) -> None:
        """See `WorkerGroups`."""
        run_config.callbacks = [self._report, self._group]
        config = config | {"is_preempted": is_preempted}
        _TrialTrainer(counts, self._worker, config, scaling_config, run_config).fit()

    def ask_to_leave(self) -> None:
        """Make the workers save and leave, also those that are still to start. Another thread may call it."""
        self._group.ask_to_leave()


def is_preempted() -> bool:
    """Whether Ray announced that a node of this worker's group will go; what `ray.train.get_preemption_info` reads.

    That function is a barrier over the ranks as well.
    """
    return get_train_context().preemption_context.preemption_info is not None


class FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]
    """Ray's policy for one number of workers, less the actor in which Train and Data share out the nodes to come.

    We have no Ray Data, and what a waiting placement group lacks Ray's autoscaler sees without it.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by the controller; Ray's own starts that actor."""

    def _maybe_send_resource_request(self) -> None:
        pass


class ElasticWorkers(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy with some numbers of workers left out.

    Args:
        counts: the allowed ones, ascending; the bounds of Ray's configuration are the first and the last.
        scaling_config: Ray's.
    """

    def __init__(self, counts: tuple[int, ...], scaling_config: ScalingConfig) -> None:
        super().__init__(scaling_config)
        self._counts = counts

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((count for count in self._counts if count <= possible), default=0)


class _StaysHere:
    """What the controller has for itself. Ray sends its callbacks to the workers, too, which do not call these."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Report(_StaysHere, UserCallback):  # type: ignore[misc]
    """Hands on what rank 0 reports."""

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller when all ranks have reported."""
        self._report(metrics[0])


class _LeavingGroup(_StaysHere, ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Makes the workers of a group save and leave: for good, or before Ray Train resizes the group."""

    def __init__(self) -> None:
        self._group: Any = None
        self._leaving = False
        # The controller's thread starts and ends groups; another one may ask them to leave.
        self._lock = threading.Lock()

    def ask_to_leave(self) -> None:
        """Ask the workers of this group, and those of any later one."""
        with self._lock:
            self._leaving = True
            if self._group is not None:
                self._ask(self._group)

    @staticmethod
    def _ask(group: Any) -> None:
        with contextlib.suppress(RayError):  # a worker that is lost has left
            ray.get(group.execute_async(ask_to_leave), timeout=_GRACE_S)

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by the controller when the workers of a group are up."""
        with self._lock:
            self._group = worker_group
            if self._leaving:
                self._ask(worker_group)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Called when a group is about to be ended, whatever for."""
        with self._lock:
            self._group = None

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Called when a group is about to be started, or ended for one of another size."""
        if self._group is None:
            return
        try:
            self._group.execute(ask_to_leave)
            deadline = time.monotonic() + _GRACE_S
            # Polling also takes the reports that a worker may be waiting to hand over.
            while not self._group.poll_status(_GRACE_S).finished and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        except RayError:  # a worker was lost meanwhile: the next group begins at the last checkpoint
            return


class _ProcessGroup(Backend):  # type: ignore[misc]
    """Ray Train's torch backend without torch in the controller's process, and less particular about a group's end."""

    share_cuda_visible_devices = True
    _address = ""

    def on_start(self, worker_group: Any, backend_config: _ProcessGroupConfig) -> None:
        """Called by the controller when the workers are up."""
        one_node = len(set(worker_group.execute(node_id))) == 1
        self._address = worker_group.execute_single(0, rendezvous_address, one_node)
        worker_group.execute(join_process_group, backend_config.backend, self._address)

    def on_shutdown(self, worker_group: Any, backend_config: _ProcessGroupConfig) -> None:
        """Called by the controller before the workers are ended.

        Ray forgives a worker that has died, but not one that it killed for the node's memory (`OutOfMemoryError`): the
        end of the group would stop there, its resources stay taken, and no other group could start.
        """
        try:
            ray.get(worker_group.execute_async(leave_process_group, self._address), timeout=_GRACE_S)
        except RayError as error:
            _log.warning("the workers' process group was not ended: %s", type(error).__name__)


class _ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """Names the backend, and torch's: `nccl` or `gloo`.

    It names no framework, whose version Ray would ask for: torch's is an object that needs torch to be read.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> type[_ProcessGroup]:
        """Asked for by the controller."""
        return _ProcessGroup


class _TrialTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Runs Ray Train's controller in the process of the trial, which would only wait for it."""

    def __init__(
        self,
        counts: tuple[int, ...],
        function: Any,
        config: dict[str, Any],
        scaling_config: ScalingConfig,
        run_config: RunConfig,
    ) -> None:
        super().__init__(
            function,
            train_loop_config=config,
            backend_config=_ProcessGroupConfig("nccl" if scaling_config.use_gpu else "gloo"),
            scaling_config=scaling_config,
            run_config=run_config,
        )
        self._counts = counts

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        elastic = self.scaling_config.elasticity_enabled
        named["scaling_policy"] = (
            ElasticWorkers(self._counts, self.scaling_config) if elastic else FixedWorkers(self.scaling_config)
        )
        controller = TrainController(**named)
        asyncio.run(controller.run())
        return controller.get_result()
