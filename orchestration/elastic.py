"""Ray Train's trainer of a trial whose workers come and go: it takes only as many as share the global batch equally."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


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


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """Takes the allowed numbers of workers before Ray's own arguments.

    It does without the actor that hands out Ray Data sets, of which we have none: that takes 110 MB a trial.
    """

    def __init__(self, counts: tuple[int, ...], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._counts = counts

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            named["scaling_policy"] = SharingWorkers(self._counts, self.scaling_config)
        return super()._initialize_and_run_controller(**named)
