"""What each trial's workers get of a cluster: how many there are, their cores, GPU and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import UserError
from ..training.execution import Execution
from ..training.job import TrialPlan
from ..training.micro_batch import is_normalizable, largest_micro_batch
from ..training.workers import workers_of
from .cost import CostModel, TrialCost
from .packing import Demand, Node, line_up, place, place_together
from .simulation import simulate

# What a trial takes beside its workers: its own process, which exports the model (950 MiB for b0, 1,360 for b7). No
# part of a core: that would leave the trial's own workers without their last whole one.
TRIAL_MEMORY = 1400 * 1024**2
# More workers have to pay: they cost all-reduces, and the average of BatchNorm is over fewer images on each.
_GAIN = 0.97


@dataclass(frozen=True)
class WorkerResources:
    """What the workers of one trial get.

    Attributes:
        counts: the numbers of workers that it may have, ascending; more than one of an elastic trial.
        cpus: whole CPU cores of each.
        use_gpu: whether each has a GPU.
        memory: bytes of each; 0: whatever there is.
    """

    counts: tuple[int, ...]
    cpus: int
    use_gpu: bool
    memory: int = 0

    @property
    def per_worker(self) -> dict[str, int]:
        """The same in Ray's words, of one worker."""
        amounts = {"CPU": self.cpus, "GPU": int(self.use_gpu), "memory": self.memory}
        return {name: amount for name, amount in amounts.items() if amount}


@dataclass(frozen=True)
class Shares:
    """What the trials of a sweep get on a cluster; also those that a search makes later.

    Attributes:
        nodes: of the cluster.
        execution: what was asked for.
        costs: predicts what a trial takes.
        cpus: cores of every worker.
        use_gpu: whether every worker has a GPU.
        chosen: numbers of workers by variant, of those that were left to the cluster.
        concurrent: how many trials fit beside each other, whichever they are.
    """

    nodes: tuple[Node, ...]
    execution: Execution
    costs: CostModel
    cpus: int
    use_gpu: bool
    chosen: Mapping[str, int] = field(default_factory=dict)
    concurrent: int = 1

    def resources_of(self, trial: TrialPlan) -> WorkerResources:
        """What a trial's workers get.

        Raises:
            UserError: it fits nowhere.
        """
        counts = self._counts(trial)
        demand = self.demand_of(trial)
        return WorkerResources(counts, self.cpus, self.use_gpu, demand.memory)

    def demand_of(self, trial: TrialPlan) -> Demand:
        """What a trial takes of the nodes: an elastic one, as many workers as it can get on all of them.

        Raises:
            UserError: it fits nowhere.
        """
        counts = self._counts(trial)
        for count in reversed(counts):
            demand = self._demand(trial, count)
            if place(demand, self.nodes) is not None:
                return demand
            # The nodes have not the memory that it is predicted to take. It may still run; preflight says what may not.
            if place(bare := replace(demand, memory=0), self.nodes) is not None:
                return bare
        raise self._refusal(trial, counts)

    def cost_of(self, trial: TrialPlan) -> TrialCost:
        """What a trial is predicted to take with its workers. Raises `UserError` as `demand_of`."""
        return self._cost(trial, self.demand_of(trial).workers)

    def _counts(self, trial: TrialPlan) -> tuple[int, ...]:
        counts = self.execution.worker_counts(trial.variant, trial.recipe.global_batch)
        if workers_of(self.execution.workers, trial.variant) is not None:
            return counts
        wanted = self.chosen.get(trial.variant, 1)
        return (max(count for count in counts if count <= wanted),)

    def _cost(self, trial: TrialPlan, workers: int) -> TrialCost:
        # As many workers share a node's memory as are on it.
        largest = max((node.memory for node in self.nodes), default=0)
        here = max(1, min(workers, max((node.room(self.cpus, self.use_gpu) for node in self.nodes), default=1)))
        return self.costs.predict(trial, workers, self.cpus, self.use_gpu, (largest - TRIAL_MEMORY) // here)

    def _demand(self, trial: TrialPlan, workers: int) -> Demand:
        cost = self._cost(trial, workers)
        gpus = int(self.use_gpu)
        return Demand(trial.trial_id, workers, self.cpus, gpus, cost.memory, TRIAL_MEMORY, cost.held_seconds)

    def _refusal(self, trial: TrialPlan, counts: tuple[int, ...]) -> UserError:
        if all(node.memory < TRIAL_MEMORY for node in self.nodes):
            return UserError(
                f"no node has the {TRIAL_MEMORY >> 20} MiB of memory that a trial takes beside its workers"
            )
        need = f"{self.cpus} CPU cores" + (" and a GPU" if self.use_gpu else "")
        room = sum(node.room(self.cpus, self.use_gpu) for node in self.nodes)
        one = workers_of(self.execution.workers, trial.variant) == self.execution.workers
        return UserError(
            f"--workers {counts[0]}{'' if one else f' of {trial.variant}'} with {need} per worker: only {room} such "
            f"workers fit on the cluster's nodes ({', '.join(map(str, self.nodes))}); use fewer workers"
            + (" or cores" if self.cpus > 1 else "")
        )


def share_out(
    nodes: Sequence[Node], execution: Execution, trials: Sequence[TrialPlan], costs: CostModel | None = None
) -> Shares:
    """Share a cluster out among the trials of a sweep.

    Where the cluster decides, a variant gets the fewest workers that fit, then as many as make the simulated sweep
    shorter. What cores are left over, with as many trials at once as fit, are shared out among all workers, which get
    the same.

    Args:
        nodes: of the cluster.
        execution: what was asked for.
        trials: of the sweep.
        costs: predicts what they take; None: by multiply-adds alone.

    Raises:
        UserError: a trial fits nowhere.
    """
    gpus = sum(node.gpus for node in nodes)
    use_gpu = gpus > 0 if execution.device == "auto" else execution.device == "gpu"
    shares = Shares(tuple(nodes), execution, costs or CostModel(), execution.cpus_per_worker or 1, use_gpu)
    if any(workers_of(execution.workers, trial.variant) is None for trial in trials):
        shares = replace(shares, chosen=_choose_workers(shares, trials))
    demands = [shares.demand_of(trial) for trial in trials]
    together = len(place_together(sorted(demands, key=lambda demand: -demand.width), nodes))
    shares = replace(shares, concurrent=max(1, min(_prefix(demands, nodes), execution.max_concurrent or together)))
    if execution.cpus_per_worker is None:
        shares = replace(shares, cpus=_spare_cores(shares, trials, demands))
    return shares


def _prefix(demands: Iterable[Demand], nodes: Sequence[Node]) -> int:
    """How many of the widest fit beside each other; so do as many of any others."""
    widest = sorted(demands, key=lambda demand: (-demand.width, -demand.memory))
    placed = {start.demand.trial_id for start in place_together(widest, nodes)}
    return next((number for number, one in enumerate(widest) if one.trial_id not in placed), len(widest))


def _spare_cores(shares: Shares, trials: Sequence[TrialPlan], demands: Sequence[Demand]) -> int:
    """The most cores per worker with which the same trials still run at once, and each one fits."""
    nodes = shares.nodes
    line = line_up(demands, nodes)[: shares.execution.max_concurrent]
    first = [start.demand for start in place_together(line, nodes)]
    for cpus in range(max(node.cpus for node in nodes), 1, -1):
        wider = [replace(demand, cpus=cpus) for demand in first]
        if len(place_together(wider, nodes)) == len(wider) and all(
            place(replace(demand, cpus=cpus), nodes) is not None for demand in demands
        ):
            return cpus
    return 1


def _choose_workers(shares: Shares, trials: Sequence[TrialPlan]) -> dict[str, int]:
    """Numbers of workers for the variants that were left to the cluster."""
    ladders = {
        variant: ladder
        for variant in dict.fromkeys(trial.variant for trial in trials)
        if workers_of(shares.execution.workers, variant) is None
        and (ladder := _possible(shares, [trial for trial in trials if trial.variant == variant]))
    }
    chosen = {variant: ladder[0] for variant, ladder in ladders.items()}
    best, path = _makespan(shares, trials, chosen)
    while path:
        tried: list[tuple[float, str, int, set[str]]] = []
        for variant in path & ladders.keys():
            for more in [count for count in ladders[variant] if count > chosen[variant]]:
                seconds, then = _makespan(shares, trials, chosen | {variant: more})
                tried.append((seconds, variant, more, then))
        seconds, variant, more, then = min(tried, default=(best, "", 0, set()), key=lambda one: (one[0], one[2]))
        if seconds > _GAIN * best:
            break
        best, path, chosen = seconds, then, chosen | {variant: more}
    return chosen


def _possible(shares: Shares, trials: Sequence[TrialPlan]) -> list[int]:
    """Numbers of workers with which all of these trials can run, ascending."""
    counts = set[int].intersection(
        *(set(shares.execution.worker_counts(trial.variant, trial.recipe.global_batch)) for trial in trials)
    )
    distinct = {(trial.recipe.global_batch, trial.image_size): trial for trial in trials}.values()
    room = sum(node.room(shares.cpus, shares.use_gpu) for node in shares.nodes)
    return [
        count
        for count in sorted(counts)
        if count <= room
        and all(
            is_normalizable(trial, count, largest_micro_batch(trial.recipe, count))
            and place(shares._demand(trial, count), shares.nodes) is not None
            for trial in distinct
        )
    ]


def _makespan(shares: Shares, trials: Sequence[TrialPlan], chosen: Mapping[str, int]) -> tuple[float, set[str]]:
    """Seconds of the simulated sweep, and the variants that it waits for at its end; none where more cannot help."""
    with_these = replace(shares, chosen=chosen)
    demands = [with_these.demand_of(trial) for trial in trials]
    schedule = simulate(demands, shares.nodes, shares.execution.max_concurrent)
    slots = sum(node.gpus if shares.use_gpu else node.cpus for node in shares.nodes)
    work = sum(demand.seconds * demand.width for demand in demands) / slots
    variants = {trial.trial_id: trial.variant for trial in trials}
    if schedule.makespan * _GAIN <= work:
        return schedule.makespan, set()
    return schedule.makespan, {variants[span.demand.trial_id] for span in schedule.critical_path()}
