"""What a whole sweep will take: its trials' costs, makespan and worker-hours, and what a budget leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import UserError
from .plan import Plan
from .sizing.allocation import Shares
from .sizing.cost import TrialCost
from .sizing.simulation import Schedule, simulate
from .spec import ExperimentSpec

# Of a core, on one machine: Ray's and MLflow's servers while trials train (two slow cores, read off `top`).
_ENGINES = 0.4


@dataclass(frozen=True)
class Forecast:
    """A plan's cost on a cluster. `costs` are the trials', by their ids; `schedule` is the simulated sweep."""

    shares: Shares
    costs: Mapping[str, TrialCost]
    schedule: Schedule

    @classmethod
    def of(cls, plan: Plan, shares: Shares) -> Forecast:
        """Predict a plan. Raises `UserError` if a trial fits nowhere."""
        costs = {trial.trial_id: shares.cost_of(trial) for trial in (*plan.examples, *plan.typical)}
        demands = [shares.demand_of(trial) for trial in plan.typical]
        return cls(shares, costs, simulate(demands, shares.nodes, plan.spec.execution.max_concurrent))

    @property
    def makespan(self) -> float:
        """Seconds from the first trial's start to the last one's end."""
        slots = self.schedule.makespan + max((cost.end for cost in self.costs.values()), default=0.0)
        return max(slots, self._shared_cores())

    def _shared_cores(self) -> float:
        """Seconds that the cores take for all there is to do: where all of them train, logging models slows training.

        None once finished trials have taught what it costs.
        """
        measured, nodes = self.shares.costs.measured, self.shares.nodes
        if self.shares.use_gpu or (measured and measured.factors):
            return 0.0
        spans = self.schedule.spans
        training = sum(span.demand.workers * span.demand.cpus * (span.end - span.start) for span in spans)
        logging = sum(self.costs[span.demand.trial_id].end for span in spans)
        cores = sum(node.cpus for node in nodes) - (_ENGINES if len(nodes) == 1 else 0.0)
        return (training + logging) / cores

    @property
    def worker_hours(self) -> float:
        """Workers × hours, of all trials."""
        return sum(span.demand.workers * (span.end - span.start) for span in self.schedule.spans) / 3600

    @property
    def critical_path(self) -> tuple[str, ...]:
        """The trials that the end waits for, one after the other."""
        return tuple(span.demand.trial_id for span in self.schedule.critical_path())


Fair = Literal["epochs", "macs", "time"]


def variant_epochs(plan: Plan, fair: Fair, forecast: Callable[[Plan], Forecast]) -> dict[str, int]:
    """Epochs by variant with which each takes as much as the most expensive one takes for the recipe's epochs.

    Args:
        plan: with the recipe's epochs for all.
        fair: what is to be equal: `epochs`, `macs` of the whole training, or its `time`.
        forecast: predicts a plan; for `time` its steps should be measured ones.
    """
    if fair == "epochs":
        return {}
    predicted, costs = forecast(plan).costs, dict[str, float]()
    for trial in plan.examples:
        cost = predicted[trial.trial_id]
        each = trial.macs if fair == "macs" else cost.step_seconds * trial.batches_per_epoch
        costs[trial.variant] = max(costs.get(trial.variant, 0.0), each)
    most = max(costs.values())
    return {name: round(plan.spec.recipe.epochs * most / cost) for name, cost in costs.items()}


def within_budget(
    plan: Plan, hours: float, forecast: Callable[[Plan], Forecast], replan: Callable[[ExperimentSpec], Plan]
) -> tuple[Plan, str]:
    """The plan cut to a budget: fewer seeds, then fewer epochs.

    Args:
        plan: what was asked for.
        hours: of workers.
        forecast: predicts a plan.
        replan: makes a plan of another specification.

    Returns:
        The plan that fits, and in a line what was cut; empty if nothing was.

    Raises:
        UserError: one seed and one epoch do not fit.
    """
    spec = plan.spec
    before = needed = forecast(plan).worker_hours
    seeds, epochs, asked = len(spec.seeds), spec.recipe.epochs, spec.recipe.epochs
    while needed > hours:
        if seeds > 1:
            # In proportion; at least one fewer, as the prediction of the cut plan may still be too long.
            seeds = max(1, min(seeds - 1, int(seeds * hours / needed)))
        elif epochs > 1:
            epochs = max(1, min(epochs - 1, _epochs_left(plan, forecast(plan), hours)))
        else:
            raise UserError(
                f"--budget-hours {hours:g}: even one seed and one epoch take {needed:.3g} worker-hours; "
                "raise it, or leave variants out"
            )
        recipe = spec.recipe.model_copy(update={"epochs": epochs})
        by_variant = {name: max(1, number * epochs // asked) for name, number in spec.variant_epochs.items()}
        cut = {"seeds": spec.seeds[:seeds], "recipe": recipe, "variant_epochs": by_variant}
        plan = replan(spec.model_copy(update=cut))
        needed = forecast(plan).worker_hours
    cuts = [
        f"{left} of {of} {what}"
        for left, of, what in ((seeds, len(spec.seeds), "seeds"), (epochs, asked, "epochs"))
        if left < of
    ]
    told = f"budget of {hours:g} worker-hours: {' and '.join(cuts)}, {needed:.3g} instead of {before:.3g} worker-hours"
    return plan, told if cuts else ""


def _epochs_left(plan: Plan, forecast: Forecast, hours: float) -> int:
    """How many epochs fit, of all trials alike."""
    costs = [forecast.costs[trial.trial_id] for trial in plan.typical]
    fixed = sum(cost.workers * cost.start for cost in costs) / 3600
    return int(plan.spec.recipe.epochs * (hours - fixed) / max(forecast.worker_hours - fixed, 1e-9))
