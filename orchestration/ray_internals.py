"""Ray Train's trainer of a trial: workers that share the global batch equally, and few processes beside them."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import tune
from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy


class FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]
    """Ray's policy of one number of workers, less the actor in which Train and Data share out the nodes to come.

    We have no Ray Data, and what a waiting placement group lacks Ray's autoscaler sees without it.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by the controller; Ray's own starts that actor."""

    def _maybe_send_resource_request(self) -> None:
        pass


class SharingWorkers(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's elastic policy with some numbers of workers left out.

    Args:
        counts: the allowed ones, ascending; the bounds of Ray's configuration are the first and the last.
        arguments: Ray's.
    """

    def __init__(self, counts: tuple[int, ...], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._counts = counts

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((count for count in self._counts if count <= possible), default=0)


class ReportToTune(UserCallback):  # type: ignore[misc]
    """Hands what rank 0 reports on to the Tune session of this process.

    Ray's own `TuneReportCallback` goes through an actor, as Ray's controller is in another process than the trial.
    """

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller when all ranks have reported."""
        tune.report(metrics[0])


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """Takes the allowed numbers of workers before Ray's own arguments.

    Ray Train's controller runs in the process of the trial, which would only wait for it, instead of in an actor of its
    own; and there is no actor that hands out Ray Data sets, of which we have none. Each actor takes 110 MB or more, a
    second or more to start, and 1% of a core for as long as it lives, also when it has nothing to do.
    """

    def __init__(self, counts: tuple[int, ...], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._counts = counts

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        elastic = self.scaling_config.elasticity_enabled
        named["scaling_policy"] = (
            SharingWorkers(self._counts, self.scaling_config) if elastic else FixedWorkers(self.scaling_config)
        )
        controller = TrainController(**named)
        asyncio.run(controller.run())
        return controller.get_result()
