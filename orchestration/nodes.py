"""The nodes of the cluster that Ray is connected to: which there are, and whether all of them see a sweep's storage."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..datasets import one_line
from .allocation import share_out
from .cost import CostModel
from .errors import UserError
from .measurements import recalled, remember
from .packing import Demand, Node
from .request import ExperimentRequest
from .training.measured import Measurement, ProbeOrder
from .training.storage import OWNER_FILE, Storage

_ANSWER_S, _PROBE_S = 300.0, 600.0
_log = logging.getLogger(__name__)
# Told to the autoscaler: more than any cluster starts at once, and few enough for a message.
_MOST_BUNDLES = 2000


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that Ray is connected to."""
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            *(int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU", "memory")),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def tell_autoscaler(demands: Iterable[Demand]) -> None:
    """Tell Ray's autoscaler what a whole sweep could use at once; a cluster without one does not mind.

    What waits in a placement group it sees by itself, which is the next trial alone.
    """
    bundles = [
        {"CPU": demand.cpus, **({"GPU": demand.gpus} if demand.gpus else {})}
        for demand in demands
        for _ in range(demand.workers)
    ]
    request_resources(bundles=bundles[:_MOST_BUNDLES])


def check_storage(nodes: Sequence[Node], storage: str, uid: str) -> None:
    """Make sure that every node on which a worker may run reads and writes the same storage.

    Args:
        nodes: of the cluster.
        storage: the experiment's folder or URL, which the experiment `uid` has claimed.

    Raises:
        UserError: one does not; the message names it.
    """
    look: Any = ray.remote(num_cpus=0, max_retries=3)(_look)
    used = [node for node in nodes if node.cpus]
    answers = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            storage, uid, node.id
        )
        for node in used
    ]
    for node, answer in zip(used, answers, strict=True):
        try:
            problem = ray.get(answer, timeout=_ANSWER_S)
        except ray.exceptions.RayError as error:
            problem = f"it did not answer ({one_line(error, 200)})"
        if problem:
            raise UserError(
                f"node {node.address} cannot use the storage {storage}: {problem}; give --storage a folder or URL "
                "that every node sees"
            )


def _look(storage: str, uid: str, node: str) -> str:
    """What is wrong with the storage as this node sees it; empty if nothing is."""
    try:
        place = Storage(storage)
        if place.read(OWNER_FILE).decode(errors="replace") != uid:
            return "it sees another folder there"
        probe = f".probe-{node}"
        place.write(probe, b"")
        place.delete(probe)
    except FileNotFoundError:
        return "it sees nothing there"
    except (OSError, UserError) as error:
        return one_line(error, 200)
    return ""


def measured_costs(nodes: Sequence[Node], request: ExperimentRequest) -> CostModel:
    """The request's cost model or, where it lacks a measurement that is wanted, one with a probe on a worker's place.

    Args:
        nodes: of the cluster.
        request: whose trials are measured.

    Raises:
        UserError: a trial fits nowhere.
    """
    plan, folder = request.plan, Path(request.cache_root)
    if not request.probe:
        return request.costs
    # What is remembered where the driver runs holds for a cluster of one kind of node.
    costs, order = recalled(plan, nodes, folder)
    if order is not None:
        task: Any = ray.remote(num_cpus=order.cpus, num_gpus=int(order.use_gpu), max_retries=0)(_probe)
        try:
            costs = remember(plan, costs, ray.get(task.remote(order), timeout=_PROBE_S), folder)
        except ray.exceptions.RayError as error:
            _log.warning("nothing was measured: %s", one_line(error, 200))
    shares = share_out(nodes, plan.spec.execution, plan.examples, costs)
    for trial in plan.trials:
        _log.info("predicted: %.0f s", shares.cost_of(trial).seconds, extra={"trial": trial.trial_id})
    return costs


def _probe(order: ProbeOrder) -> Measurement:
    from .training.probe import probe

    return probe(order)
