"""`Search`: which configurations a sweep tries, as data: the section `search` of a specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from ..training.settings import Shown
from .domains import Choice, Domain, Span, assignments, names_several, parse_domain, text_of

Method = Literal["grid", "random", "optuna"]
Objective = Literal["top1", "macs", "seconds", "params"]
MAXIMIZED = frozenset({"top1"})
"""Objectives of which more is better."""


def _read_domain(value: Any) -> Domain:
    if not isinstance(value, Choice | Span):
        raise ValueError("expected a list of values, or a range such as 1e-4..1e-2:log")
    return value


def _read_objectives(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


# `spec.ExperimentSpec` makes domains of what people write, for that takes the fields of its recipe.
_Domain = Annotated[Any, BeforeValidator(_read_domain), PlainSerializer(lambda domain: domain.plain())]


class Search(BaseModel):
    """Which configurations a sweep tries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Annotated[
        Method,
        Field(description="which combinations are tried: all, some at random, or those that Optuna suggests"),
        Shown(name="search"),
    ] = "grid"
    trials: Annotated[
        int | None,
        Field(ge=1, description="trials of a random or an Optuna search"),
        Shown(metavar="N"),
    ] = None
    sweep: Annotated[
        Mapping[str, _Domain],
        Field(description="values of any field to try, such as lr=1e-3,3e-3; see --search"),
        # Beside the fields that it is about.
        Shown(section="recipe", metavar="FIELD=VALUES", default="", common=True),
    ] = {}
    objectives: Annotated[
        tuple[Objective, ...],
        BeforeValidator(_read_objectives),
        Field(description=f"what is optimized, top1 first, of {', '.join(get_args(Objective))}; several give a front"),
        Shown(metavar="LIST"),
    ] = ("top1",)
    search_seed: Annotated[
        int | None,
        Field(ge=0, lt=2**32, description="seed of a random or an Optuna search"),
        Shown(default="the first of the trials' seeds"),
    ] = None

    @property
    def adaptive(self) -> bool:
        """Whether what is tried depends on the results so far, so that a plan cannot list it."""
        return self.method == "optuna"

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, fields: Any) -> Any:
        """A method alone, or fields."""
        return {"method": fields} if isinstance(fields, str) else fields

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method == "grid":
            for name, domain in self.sweep.items():
                if isinstance(domain, Span):
                    few = f"{name}={text_of(domain.low)},{text_of(domain.high)}"
                    raise ValueError(
                        f"{name}={domain} is a range, which a grid cannot walk through; list its values, such as "
                        f"{few}, or use --search random"
                    )
            if self.trials is not None:
                raise ValueError("trials are for --search random and optuna; a grid runs every combination")
        elif self.trials is None:
            raise ValueError(f"--search {self.method} needs a number of trials, such as --trials 20")
        if self.objectives[:1] != ("top1",) or len(set(self.objectives)) < len(self.objectives):
            given = ",".join(self.objectives)
            raise ValueError(f"objectives: top1 comes first, then others once each, such as top1,macs (got '{given}')")
        return self


def gather_sweep(fields: Mapping[str, Any], recipe_model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a specification with all that is swept in its section `search`, as domains.

    A field of the recipe may hold a list or a range itself. One value alone becomes the recipe's.

    Args:
        fields: of a specification, as people write them or as it holds them.
        recipe_model: the recipe's class.

    Raises:
        ValueError: a swept field or a value of it is none that the recipe knows, or a field is swept twice.
    """
    recipe, search = (_mapping(fields.get(name), word) for name, word in (("recipe", "name"), ("search", "method")))
    if recipe is None or search is None:  # what is no section is refused by the section
        return dict(fields)
    listed = {
        name: written
        for name, written in recipe.items()
        if name in recipe_model.model_fields and name != "name" and names_several(written)
    }
    sweep = assignments(search.get("sweep"))
    for name in listed.keys() & sweep.keys():
        raise ValueError(f"{name} is swept twice, in the recipe and in the sweep; say it once")
    domains = {name: parse_domain(recipe_model, name, written) for name, written in (sweep | listed).items()}
    if not domains:
        return dict(fields)
    order = list(recipe_model.model_fields)
    swept = {name: domains[name] for name in sorted(domains, key=order.index) if domains[name].size != 1}
    fixed = {name: domain.values[0] for name, domain in domains.items() if isinstance(domain, Choice)}
    kept = {name: value for name, value in recipe.items() if name not in listed}
    kept |= {name: value for name, value in fixed.items() if name not in swept}
    return {**fields, "recipe": kept, "search": {**search, "sweep": swept}}


def _mapping(section: Any, word: str) -> dict[str, Any] | None:
    """A section as plain fields; None where it is no section at all."""
    if isinstance(section, str):
        return {word: section}
    if isinstance(section, BaseModel | Mapping):
        return dict(section)
    return {} if section is None else None
