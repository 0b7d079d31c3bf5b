"""Preflight: refuses, before anything starts, what would fail or hang later.

What a plan says is checked where it is made (`plan.py`). Here, a plan is held against the machines that are to run it,
each of which is one value (`node_facts.py`): all checks are pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..effnet.memory import estimate
from .errors import UserError
from .node_facts import NodeFacts, this_machine
from .plan import Plan
from .report.significance import seeds_needed, smallest_p
from .studies.presets import comparisons
from .training.job import TrialPlan
from .training.micro_batch import largest_divisor

# Values of the optimizer's state per weight.
_MOMENTS = {"adamw": 2, "rmsprop": 2, "sgd": 1}
# The latest two checkpoints and the best epochs that they name.
_KEPT_CHECKPOINTS = 4
# Batches that torch's loader keeps ready per worker process.
_PREFETCHED = 2


def notes(plan: Plan) -> list[str]:
    """What is allowed but may surprise, a line each."""
    found = []
    most = max(_counts(plan, trial)[-1] for trial in plan.examples)
    if plan.val_samples < most:
        found.append(
            f"validation has {plan.val_samples} images for {most} workers; some of them evaluate none, which is correct"
        )
    same = dict.fromkeys(_same_networks(plan))
    found += [f"{first} and {second} are the same network, by rounding" for first, second in same]
    compared, seeds = comparisons(plan.spec), len(plan.spec.seeds)
    if compared and seeds < (fewest := seeds_needed(compared)):
        found.append(
            f"{seeds} {'seed' if seeds == 1 else 'seeds'} cannot tell any of {compared:,} compared pairs apart: the "
            f"smallest p is {smallest_p(seeds, compared):.2g}; for one below 0.05 it takes --seeds 0-{fewest - 1}"
        )
    return found


def _same_networks(plan: Plan) -> Iterator[tuple[str, str]]:
    """Pairs of variants that scaling has made equal."""
    seen: dict[object, str] = {}
    for trial in plan.examples:
        model = trial.model
        built = model.activation, model.shortcut, trial.params, trial.macs, trial.image_size
        first = seen.setdefault(built, trial.variant)
        if first != trial.variant:
            yield first, trial.variant


def require_machine(plan: Plan, storage: str) -> None:
    """Refuse what this machine cannot run alone. Takes a fraction of a second.

    Args:
        plan: what is to run here.
        storage: the folder or URL for checkpoints; the folder may be missing yet.

    Raises:
        UserError: what to change, in one line.
    """
    facts = this_machine(storage, with_gpus=plan.spec.execution.device != "cpu")
    use_gpu = bool(facts.gpu_memory)
    _raise_first(_cores(plan, facts, use_gpu), *_room(plan, plan.examples, [facts], use_gpu))


def require_nodes(
    plan: Plan, unstarted: Sequence[TrialPlan], nodes: Sequence[NodeFacts], here: Mapping[str, str], use_gpu: bool
) -> None:
    """Refuse what the nodes of a cluster cannot run.

    Args:
        plan: what is to run.
        unstarted: those of its trials that have no checkpoints yet.
        nodes: that may run workers.
        here: the versions of the driver.
        use_gpu: whether workers compute on GPUs.

    Raises:
        UserError: what to change, in one line that names the node.
    """
    for node in nodes:
        _raise_first(
            _places(plan, node), _weights(unstarted, node), _same_versions(node, here), _distinct_gpus(node, use_gpu)
        )
    _raise_first(*_room(plan, unstarted, nodes, use_gpu))


def _counts(plan: Plan, trial: TrialPlan) -> tuple[int, ...]:
    """The numbers of workers that a trial must be able to run with, ascending."""
    return plan.sure_counts(trial.variant, trial.recipe.global_batch)


def _raise_first(*checks: Iterator[str]) -> None:
    for check in checks:
        for problem in check:
            raise UserError(problem)


def _room(plan: Plan, unstarted: Sequence[TrialPlan], nodes: Sequence[NodeFacts], use_gpu: bool) -> list[Iterator[str]]:
    return [
        _memory_fits(plan, nodes, use_gpu),
        _shared_memory_fits(plan, nodes, use_gpu),
        _checkpoints_fit(unstarted, nodes),
    ]


def _places(plan: Plan, node: NodeFacts) -> Iterator[str]:
    if node.storage:
        yield (
            f"{node.name} cannot use the storage: {node.storage}; give --storage a folder or URL that every node sees"
        )
    if node.data:
        yield (
            f"{node.name} cannot read the data {plan.spec.data}: {node.data}; give --data a folder or URL that every "
            "node sees"
        )
    if node.tracking:
        yield (
            f"{node.name} cannot reach the tracking server: {node.tracking}; give --tracking-uri an address that every "
            "node reaches"
        )


def _weights(unstarted: Sequence[TrialPlan], node: NodeFacts) -> Iterator[str]:
    """Trials that have checkpoints go on from these, whatever has become of the weights that they started from."""
    if node.weights and unstarted:
        yield f"{node.name} has not the weights to start from: {node.weights}"


def _same_versions(node: NodeFacts, here: Mapping[str, str]) -> Iterator[str]:
    for name, wanted in here.items():
        found = node.versions.get(name, "none")
        if found != wanted:
            yield f"{node.name} has {name} {found} and the driver {wanted}; install the same on all nodes"


def _distinct_gpus(node: NodeFacts, use_gpu: bool) -> Iterator[str]:
    if use_gpu and node.gpu_memory is not None and node.gpus > len(node.gpu_memory):
        yield (
            f"{node.name}: Ray counts {node.gpus} GPUs, and there are {len(node.gpu_memory)}; NCCL refuses two ranks "
            f"on one; start Ray there with --num-gpus {len(node.gpu_memory)}"
        )


def _cores(plan: Plan, machine: NodeFacts, use_gpu: bool) -> Iterator[str]:
    fewest = max(_counts(plan, trial)[0] for trial in plan.examples)
    cores = plan.spec.execution.cpus_per_worker or 1
    if fewest * cores > machine.cores:
        yield (
            f"--workers {fewest} with {cores} CPU cores per worker: {machine.name} has {machine.cores} cores; "
            "use fewer workers" + (" or cores" if cores > 1 else "")
        )
    if use_gpu and fewest > len(machine.gpu_memory or ()):
        yield f"--workers {fewest}: {machine.name} has {len(machine.gpu_memory or ())} GPUs; use fewer, or --device cpu"


def worker_memory(trial: TrialPlan, workers: int) -> int:
    """The least bytes of tensors that one worker of a trial needs, by prediction: micro-batches as small as allowed."""
    recipe = trial.recipe
    micro_batch = largest_divisor(recipe.global_batch // workers, recipe.micro_batch or 1)
    memory = estimate(
        trial.model, micro_batch, trial.image_size, checkpoint_activations=recipe.checkpoint_activations
    ).memory
    half = 1 if recipe.precision == "float32" else 2
    return memory.total - memory.activations + memory.activations // half


def _memory_fits(plan: Plan, nodes: Sequence[NodeFacts], use_gpu: bool) -> Iterator[str]:
    if use_gpu and any(node.gpu_memory is None for node in nodes):
        return
    places = [size for node in nodes for size in ((node.gpu_memory or ()) if use_gpu else (node.memory,))]
    for trial in _distinct(plan.examples):
        workers = _counts(plan, trial)[0]
        need = worker_memory(trial, workers)
        room = sum(size // need if not use_gpu else int(size >= need) for size in places)
        if room < workers:
            what = "GPUs" if use_gpu else "memory"
            yield (
                f"{trial.trial_id}: {trial.image_size} px needs at least {_size(need)} per worker, and {what} of "
                f"{_size(max(places, default=0))} hold {room} of {workers} workers; use smaller images, variants or "
                "micro-batches, or --checkpoint-activations"
            )


def _shared_memory_fits(plan: Plan, nodes: Sequence[NodeFacts], use_gpu: bool) -> Iterator[str]:
    """Loader processes hand their batches over in /dev/shm; a container has 64 MiB there unless told otherwise."""
    processes = plan.spec.execution.loader_workers
    processes = int(use_gpu) if processes is None else processes  # on GPUs at least one
    if not processes or not nodes:
        return

    def need(trial: TrialPlan) -> tuple[int, int]:
        """The bytes on a node, and the workers there."""
        workers = _counts(plan, trial)[-1]
        here = math.ceil(workers / len(nodes))
        batch = max(1, trial.recipe.global_batch // workers) * 3 * trial.image_size**2
        return here * processes * _PREFETCHED * batch, here

    most, here = max(map(need, plan.examples))
    for node in nodes:
        if node.shared_memory is not None and most > node.shared_memory:
            yield (
                f"{node.name}: /dev/shm has {_size(node.shared_memory)} free, and {here} workers with {processes} "
                f"loader workers each need {_size(most)}; use fewer --loader-workers, or a larger /dev/shm "
                "(docker: --shm-size)"
            )


def _checkpoints_fit(trials: Sequence[TrialPlan], nodes: Sequence[NodeFacts]) -> Iterator[str]:
    sizes = [_checkpoint_bytes(trial) for trial in trials]
    need = _KEPT_CHECKPOINTS * sum(sizes) + max(sizes, default=0)  # and one that is being written
    for node in nodes:
        if node.storage_free is not None and need > node.storage_free:
            yield (
                f"{node.name}: the storage's disk has {_size(node.storage_free)} free, and the checkpoints of "
                f"{len(trials)} trials take up to {_size(need)}; free some, give another --storage, or train fewer"
            )


def _checkpoint_bytes(trial: TrialPlan) -> int:
    recipe = trial.recipe
    return 4 * trial.params * (1 + _MOMENTS[recipe.optimizer] + (recipe.ema > 0))


def _distinct(trials: Sequence[TrialPlan]) -> list[TrialPlan]:
    """One trial of each network and batch: of a thousand trials most are alike."""
    found = {
        (
            trial.model,
            trial.image_size,
            trial.recipe.global_batch,
            trial.recipe.micro_batch,
            trial.recipe.precision,
        ): trial
        for trial in reversed(trials)
    }
    return list(found.values())[::-1]


def _size(number: int) -> str:
    for limit, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:,} bytes"
