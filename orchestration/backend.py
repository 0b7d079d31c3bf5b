"""Ray Train's torch backend, less particular about how a group ends."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class ForgivingBackend(_TorchBackend):  # type: ignore[misc]
    """Ends the process group of workers that may be gone.

    Ray Train forgives a worker that has died, but not one that Ray killed for the node's memory (`OutOfMemoryError`):
    the end of the group would stop there, its resources stay taken, and no other group could start.
    """

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called by Ray Train before the workers are ended."""
        try:
            super().on_shutdown(worker_group, backend_config)
        except RayError as error:
            print(f"the workers' process group was not ended: {type(error).__name__}", flush=True)


class ForgivingTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` with the `ForgivingBackend`."""

    @property
    def backend_cls(self) -> type[ForgivingBackend]:
        """Asked for by Ray Train."""
        return ForgivingBackend
