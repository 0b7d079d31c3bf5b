"""More of an experiment: longer trainings, more values of a grid, more trials of a search, under the same name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import UserError
from .plan import Plan, configurations
from .spec import ExperimentSpec
from .training.job import TrialPlan


@dataclass(frozen=True)
class Extension:
    """What is added, as a person types it; None adds nothing.

    Attributes:
        epochs: how many every trial is to train in all.
        trials: how many a random or an Optuna search is to try in all.
        variants, activations, shortcuts, seeds: more values of these, to be combined with all others of a grid.
    """

    epochs: str | int | None = None
    trials: str | int | None = None
    variants: str | None = None
    activations: str | None = None
    shortcuts: str | None = None
    seeds: str | None = None

    def apply(self, plan: Plan) -> Plan:
        """The plan of the whole experiment with what is added. Trials that are there keep all but their epochs.

        Raises:
            UserError, DataError: nothing is added, something is there already, epochs are fewer, or a new trial cannot
                run.
        """
        spec, added = plan.spec, {name: value for name, value in vars(self).items() if value is not None}
        if not added:
            raise UserError(f"say what '{spec.name}' gets more of: --epochs, --trials, --variants, --seeds, …")
        if spec.search.adaptive and added.keys() != {"trials"}:
            raise UserError(f"'{spec.name}' is a search that makes up its trials as it goes; only --trials extends it")
        lists = added.keys() - {"epochs", "trials"}
        if lists and spec.search.method != "grid":
            raise UserError(f"'{spec.name}' is a search that draws its trials; only --epochs and --trials extend it")
        longer = ExperimentSpec.parse(
            dict(spec)
            | {name: (*getattr(spec, name), *_new(spec, name, added[name])) for name in sorted(lists)}
            | ({"recipe": spec.recipe.model_dump() | {"epochs": added["epochs"]}} if self.epochs is not None else {})
            | ({"search": dict(spec.search) | {"trials": added["trials"]}} if self.trials is not None else {})
        )
        if self.epochs is not None:
            _require_more_epochs(spec, longer)
        if self.trials is not None:
            _require_more_trials(spec, longer)
        fresh = plan.model_copy(update={"spec": longer, "trials": ()})
        if spec.search.adaptive:
            return fresh
        epochs = longer.recipe.epochs if self.epochs is not None else None
        kept = {key: _of_epochs(trial, epochs) for key, trial in _by_configuration(plan.trials)}
        if added.keys() == {"epochs"}:
            planned = list(kept.values())
        else:
            planned = [kept.get(frozenset(found.items())) or fresh.trial_of(found) for found in configurations(longer)]
        if epochs is None and len(planned) == len(plan.trials):
            raise UserError(f"that adds no trial to '{spec.name}'")
        return fresh.model_copy(update={"trials": tuple(planned)})


def _new(spec: ExperimentSpec, name: str, text: str) -> tuple[object, ...]:
    """The values of a list, of which none may be there already."""
    parsed: tuple[object, ...] = getattr(
        ExperimentSpec.parse({"name": spec.name, "variants": spec.variants, name: text}), name
    )
    there = [str(value) for value in parsed if value in getattr(spec, name)]
    if there:
        raise UserError(f"--{name} {','.join(there)}: '{spec.name}' has that already; name what is new")
    return parsed


def _require_more_epochs(before: ExperimentSpec, after: ExperimentSpec) -> None:
    if "epochs" in before.search.sweep:
        raise UserError(f"'{before.name}' sweeps its epochs, which --epochs would make the same; submit another one")
    if before.variant_epochs:
        raise UserError(f"the variants of '{before.name}' have epochs of their own; submit another one")
    if after.recipe.epochs <= before.recipe.epochs:
        raise UserError(
            f"--epochs {after.recipe.epochs}: the trials of '{before.name}' have {before.recipe.epochs}; name more"
        )


def _require_more_trials(before: ExperimentSpec, after: ExperimentSpec) -> None:
    now, wanted = before.search.trials or 0, after.search.trials or 0
    if wanted <= now:
        raise UserError(f"--trials {wanted}: '{before.name}' has {now}; name more")


def _of_epochs(trial: TrialPlan, epochs: int | None) -> TrialPlan:
    if epochs is None:
        return trial
    return trial.model_copy(update={"recipe": trial.recipe.model_copy(update={"epochs": epochs})})


def _by_configuration(trials: Iterable[TrialPlan]) -> Iterable[tuple[frozenset[tuple[str, object]], TrialPlan]]:
    return ((frozenset(trial.configuration.items()), trial) for trial in trials)
