"""What a node does while it trains, in a trial's run: MLflow's system metrics, under the node's name.

MLflow's own `SystemMetricsMonitor` asks for the whole run before every sample, and ends for good when the server is
away once. Its readers of processor, memory, disk, network and GPU are used here. MLflow does not promise them, so a
test reads them in the installed release.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...datasets import one_line
from .runs import Tracker

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's variable; `false` keeps system metrics from being logged."""
_EVERY_S = 10.0
# Seconds that a worker which has trained waits for a last sample to be sent.
_LAST_S = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NodeMetrics:
    """Logs a sample every ten seconds, and one at the end of its `with` block; one that cannot be sent is dropped.

    A step is a second since the run began, so that a worker which is started again goes on behind the earlier one.

    Args:
        tracking_uri, experiment, uid: see `Tracker`.
        run_id: the trial's run.
    """

    tracking_uri: str
    experiment: str
    uid: str
    run_id: str

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Log what this node does within the block, unless another process of it does so for the same run."""
        if os.environ.get(SWITCH, "").lower() in ("false", "0"):
            yield
            return
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                # A name that only one process of a machine can have, and that ends with it. Nobody connects.
                claim.bind(f"\0effnet-node-metrics-{self.run_id}")
            except OSError:
                yield
                return
            over = threading.Event()
            thread = threading.Thread(target=self._log_until, args=[over], name="node-metrics", daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join(_LAST_S)

    def _log_until(self, over: threading.Event) -> None:
        try:
            readers = _readers()
            _read(readers)  # a share of time is that since the reading before
        except Exception as error:
            _log.warning("no system metrics of this node: %s", one_line(error))
            return
        tracker = Tracker(self.tracking_uri, self.experiment, self.uid, patience_s=0)
        began, last = None, -1
        ending = False
        while not ending:
            ending = over.wait(_EVERY_S)
            try:
                if began is None:
                    began = tracker.client.get_run(self.run_id).info.start_time / 1000
                now = time.time()
                if (step := int(now - began)) > last:
                    self._send(tracker, _read(readers), round(now * 1000), step)
                    last = step
            except Exception as error:
                _log.debug("system metrics: %s", one_line(error))

    def _send(self, tracker: Tracker, values: Mapping[str, float], at: int, step: int) -> None:
        from mlflow.entities import Metric

        prefix = f"system/{socket.gethostname()}"
        found = [Metric(f"{prefix}/{name}", value, at, step) for name, value in values.items()]
        tracker.client.log_batch(self.run_id, metrics=found)


def _readers() -> list[BaseMetricsMonitor]:
    """MLflow's readers of this node; of its GPUs only where the package `nvidia-ml-py` is."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    readers = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):  # no package, no GPU
        readers.append(GPUMonitor())
    return readers


def _read(readers: Sequence[BaseMetricsMonitor]) -> dict[str, float]:
    """A sample of each reader, by MLflow's names."""
    values: dict[str, float] = {}
    for reader in readers:
        reader.collect_metrics()
        values |= reader.aggregate_metrics()
        reader.clear_metrics()
    return values
