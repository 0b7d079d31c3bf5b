"""The nodes of the cluster that Ray is connected to: which there are, and what each of them has and sees."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...datasets import one_line
from ..errors import UserError
from ..measurements import recalled, remember
from ..node_facts import NodeFacts, facts_of_node
from ..request import ExperimentRequest
from ..sizing.allocation import share_out
from ..sizing.cost import CostModel
from ..sizing.packing import Demand, Node
from ..training.measured import Measurement, ProbeOrder

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


def ask_nodes(nodes: Sequence[Node], request: ExperimentRequest) -> list[NodeFacts]:
    """Ask every node on which a worker may run what it has and sees: this one here, each other one by a task.

    Args:
        nodes: of the cluster.
        request: whose storage is claimed.

    Raises:
        UserError: a node does not answer.
    """
    ask: Any = ray.remote(num_cpus=0, max_retries=3)(facts_of_node)
    own = ray.get_runtime_context().get_node_id()
    used = [node for node in nodes if node.cpus]
    answers = [
        None
        if node.id == own  # where a process for the task would only cost its start
        else ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
            node.address, node.id, node.cpus, node.gpus, request
        )
        for node in used
    ]
    facts = []
    for node, answer in zip(used, answers, strict=True):
        if answer is None:
            facts.append(facts_of_node(node.address, node.id, node.cpus, node.gpus, request))
            continue
        try:
            facts.append(ray.get(answer, timeout=_ANSWER_S))
        except ray.exceptions.RayError as error:
            raise UserError(f"node {node.address} does not answer: {one_line(error, 200)}") from error
    return facts


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
    from ..training.probe import probe

    return probe(order)
