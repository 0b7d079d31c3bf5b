"""The cluster's nodes: what of a sweep fits on them, and what each of them has and sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..datasets import one_line
from .errors import UserError
from .node_facts import NodeFacts, facts_of_node
from .plan import Plan
from .request import ExperimentRequest

# What a trial takes beside its workers: its own process (250 MiB), and Ray Train's synchronization actor and cleaner
# (190 each). No part of a core: that would leave the trial's own workers without their last whole one.
TRIAL_MEMORY = 640 * 1024**2
_ANSWER_S = 300.0


@dataclass(frozen=True)
class Node:
    """What a node offers: whole CPU cores, GPUs, and bytes of memory."""

    id: str
    address: str
    cpus: int
    gpus: int
    memory: int

    def room(self, cpus: int, use_gpu: bool) -> int:
        """How many workers of so many cores fit."""
        return min(self.cpus // cpus, self.gpus) if use_gpu else self.cpus // cpus

    def __str__(self) -> str:
        return f"{self.address} {self.cpus} cores" + (f" and {self.gpus} GPUs" if self.gpus else "")


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a trial gets: whole CPU cores, and a GPU or none."""

    cpus: int
    use_gpu: bool


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


def share_out(nodes: Sequence[Node], plan: Plan) -> tuple[WorkerResources, int]:
    """What each worker gets, and how many trials run at a time.

    As many trials run at once as fit. What cores are left over are shared out among their workers, all of which get the
    same, so that each fits on a node.

    Args:
        nodes: of the cluster.
        plan: what is to run.

    Raises:
        UserError: not even one trial fits.
    """
    spec, execution = plan.spec, plan.spec.execution
    gpus = sum(node.gpus for node in nodes)
    use_gpu = gpus > 0 if execution.device == "auto" else execution.device == "gpu"
    counts, cpus = spec.worker_counts, execution.cpus_per_worker or 1

    def room(each: int) -> int:
        return sum(node.room(each, use_gpu) for node in nodes)

    # An elastic trial is shared out as if it had all the workers that it can get here.
    workers = max((count for count in counts if count <= room(cpus)), default=0)
    if not workers:
        need = f"{cpus} CPU cores" + (" and a GPU" if use_gpu else "")
        raise UserError(
            f"--workers {counts[0]} with {need} per worker: only {room(cpus)} such workers fit on the cluster's nodes "
            f"({', '.join(map(str, nodes))}); use fewer workers" + (" or cores" if cpus > 1 else "")
        )
    trials = sum(node.memory // TRIAL_MEMORY for node in nodes)
    if not trials:
        raise UserError(f"no node has the {TRIAL_MEMORY >> 20} MiB of memory that a trial takes beside its workers")
    fitting = min(room(cpus) // workers, trials)
    concurrent = min(fitting, len(plan.trials), execution.max_concurrent or fitting)
    if execution.cpus_per_worker is None:
        largest = max(node.cpus for node in nodes)
        cpus = next(each for each in range(largest, 0, -1) if room(each) >= concurrent * workers)
    return WorkerResources(cpus, use_gpu), concurrent


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
