"""`ExperimentSpec`: everything that a submit says, as one frozen value with one YAML form."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..datasets import one_line
from ..effnet import BASELINES, VARIANTS
from ..effnet.activations import ACTIVATION_NAMES
from ..effnet.naming import canonical_name
from ..effnet.networks import network_config
from ..effnet.stages import SHORTCUTS
from .errors import UserError
from .scheduling import CHANGEABLE, Scheduling
from .search.domains import Span
from .search.lists import parse_names, parse_seeds
from .search.section import Search, gather_sweep
from .search.space import Network, Space
from .studies.presets import StudyName
from .training.execution import Execution
from .training.recipes import Recipe
from .training.settings import Shown, settings_of
from .training.workers import workers_of

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# The generators of torch on the CPU take no more than 32 bits of a seed; larger ones would repeat each other.
_MAX_SEED = 2**32 - 1
_NULL = "tag:yaml.org,2002:null"
OWN = "own"
"""In place of an activation: the one that each variant was published with."""


Model = TypeVar("Model", bound=BaseModel)


def parse_fields(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Build a value from plain ones. Raises `UserError` with one line that names the first wrong field."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        prefix = f"{where}: " if where else ""
        shown = first.get("input")
        given = f" (got {shown!r})" if isinstance(shown, str | int | float | bool) else ""
        message = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise UserError(f"{prefix}{message.removeprefix('Value error, ')}{given}") from None


class _SpecLoader(yaml.SafeLoader):
    """YAML whose scalars stay text: the field that takes one reads it as it reads a flag's. Null is None.

    YAML 1.1, which PyYAML reads, makes 128 of `workers: 2:8`, 8 of `seeds: 010`, True of `name: on` and a date of
    `name: 2024-01-01`. To YAML 1.2 they are text, too. Numbers are decimal, as in flags: 0x10 and 0o17 are none.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping. Raises `YAMLError` for a key that is there twice, of which PyYAML would take the last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a setting's name is one word", problem_mark=key.start_mark)
            if key.value in lines:
                problem = f"'{key.value}' is in line {lines[key.value]} already"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


# Of the plain words to which YAML 1.1 gives a type only null keeps it, and no tag makes anything but text, lists and
# mappings.
_SpecLoader.yaml_implicit_resolvers = {
    first: [found for found in resolvers if found[0] == _NULL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SpecLoader.yaml_constructors = {
    tag: found
    for tag, found in yaml.SafeLoader.yaml_constructors.items()
    if tag in (_NULL, "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map", None)
}


class ExperimentSpec(BaseModel):
    """One experiment: the trials are the product of variants × activations × shortcuts × seeds × what is swept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str,
        Field(description="name of the experiment"),
        Shown(common=True, section="", default="DATA-VARIANTS"),
    ]
    study: Annotated[
        StudyName | None,
        Field(description="study that it belongs to, which adds its figures to the report"),
        Shown(section=""),
    ] = None
    data: Annotated[
        str,
        Field(description="folder or URL of shards; digits come with the package"),
        Shown(common=True, section="data"),
    ] = "digits"
    shuffle_block: Annotated[
        int | None,
        Field(ge=1, description="shards that are shuffled together"),
        Shown(section="data", default="all, or as many as hold 4 GiB"),
    ] = None
    variants: Annotated[
        tuple[str, ...],
        Field(description="networks, such as b0-b7 or b0,b2.5"),
        Shown(common=True, section="model", metavar="LIST"),
    ]
    activations: Annotated[
        tuple[str, ...],
        Field(description="activation functions, such as silu,relu"),
        Shown(common=True, section="model", metavar="LIST", default=f"{OWN}, each variant's"),
    ] = (OWN,)
    shortcuts: Annotated[
        tuple[str, ...],
        Field(description="skip connections: residual, as in the paper, none or identity_conv"),
        Shown(section="model", metavar="LIST"),
    ] = ("residual",)
    seeds: Annotated[
        tuple[int, ...],
        Field(description="seeds of weights and data order, such as 0-4"),
        Shown(common=True, section="model", metavar="LIST"),
    ] = (0,)
    image_size: Annotated[
        int | None,
        Field(ge=8, description="input side in pixels, for all variants"),
        Shown(section="model", default="by variant and data"),
    ] = None
    variant_epochs: Annotated[
        dict[str, Annotated[int, Field(ge=1)]],
        Field(description="epochs of some variants in place of --epochs, such as b0=40,b1=20"),
        Shown(section="recipe", metavar="LIST", default=""),
    ] = {}
    recipe: Recipe = Recipe()
    search: Search = Search()
    execution: Execution = Execution()
    scheduling: Scheduling = Scheduling()

    @model_validator(mode="before")
    @classmethod
    def _say_section(cls, fields: Any) -> Any:
        """Refuse a setting at the top level of a spec file that belongs into a section."""
        if isinstance(fields, Mapping):
            for setting in settings_of(cls):
                section, name = setting.path[0], setting.path[-1]
                if name in fields and name not in cls.model_fields:
                    raise ValueError(f"{name} belongs under '{section}:'; move it there")
        return fields

    @model_validator(mode="before")
    @classmethod
    def _gather_sweep(cls, fields: Any) -> Any:
        """Have all that is swept in one place, wherever it was written."""
        return gather_sweep(fields, Recipe) if isinstance(fields, Mapping) else fields

    @model_validator(mode="after")
    def _check_workers(self) -> ExperimentSpec:
        batches = self.search.sweep.get("global_batch")
        for name in self.variants:
            span = workers_of(self.execution.workers, name)
            if isinstance(batches, Span):
                for batch in range(int(batches.low), int(batches.high) + 1):
                    counts = self.execution.worker_counts(name, batch)
                    if span and (not counts or batch % counts[-1]):
                        raise ValueError(
                            f"global_batch={batches} holds {batch}, which {span} workers cannot share equally; "
                            "list batches that they can, such as global_batch=16,32"
                        )
            for batch in batches.ends if batches else (self.recipe.global_batch,):
                if span and not self.execution.worker_counts(name, batch):
                    raise ValueError(
                        f"global batch {batch} cannot be shared equally by any number of workers from {span.fewest} to "
                        f"{span.most}"
                    )
        return self

    @model_validator(mode="after")
    def _check_trials(self) -> ExperimentSpec:
        size, trials = self.space.size, self.search.trials
        if size is not None and trials is not None and trials > size:
            raise ValueError(
                f"there are only {size:,} different trials; use --trials {size} at most, more values, or --search grid"
            )
        return self

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("use up to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit")
        return name

    @field_validator("variants", "activations", "shortcuts", mode="before")
    @classmethod
    def _expand(cls, value: Any, info: Any) -> Any:
        known: dict[str, Iterable[str]] = {
            "variants": (*VARIANTS, *BASELINES),
            "activations": (*ACTIVATION_NAMES, OWN),
            "shortcuts": SHORTCUTS,
        }
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        # Variants have names beyond the list: scaled ones, such as b0-w1.4 and b2.5.
        canonical = canonical_name if info.field_name == "variants" else None
        return parse_names(text, known[info.field_name], info.field_name.removesuffix("s"), canonical)

    @field_validator("seeds", mode="before")
    @classmethod
    def _expand_seeds(cls, value: Any) -> Any:
        parts = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return parse_seeds(",".join(map(str, parts)))

    @field_validator("variant_epochs", mode="before")
    @classmethod
    def _read_epochs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=")[::2] for part in value.split(",") if part.strip()]
        return {canonical_name(name.strip()): number.strip() for name, number in pairs}

    @model_validator(mode="after")
    def _check_epochs(self) -> ExperimentSpec:
        for name in self.variant_epochs:
            if name not in self.variants:
                raise ValueError(f"variant_epochs: {name} is none of the variants {', '.join(self.variants)}")
        if self.variant_epochs and "epochs" in self.search.sweep:
            raise ValueError("variant_epochs and swept epochs are two ways to say one thing; leave out one")
        return self

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or min(seeds) < 0 or max(seeds) > _MAX_SEED:
            raise ValueError(f"give at least one seed, none below 0 or above {_MAX_SEED}")
        return tuple(dict.fromkeys(seeds))

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Build from plain values. Raises `UserError` with one line that names the first wrong field."""
        return parse_fields(cls, fields)

    @classmethod
    def fields_from_yaml(cls, path: Path) -> dict[str, Any]:
        """Read a spec file as plain fields, so that flags can still win over it. Raises `UserError`."""
        try:
            with path.open("rb") as file:
                fields = yaml.load(file, _SpecLoader)
        except OSError as error:
            raise UserError(f"spec file {path}: {error.strerror}") from None
        except yaml.MarkedYAMLError as error:
            line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise UserError(f"spec file {path} is not YAML{line}: {error.problem or one_line(error)}") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"spec file {path} is not YAML: {one_line(error)}") from None
        if not isinstance(fields, dict):
            raise UserError(f"spec file {path}: expected a mapping of fields such as 'variants: b0-b7'")
        return fields

    def to_yaml(self) -> str:
        """The form that `--save` writes and `--spec` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @model_validator(mode="after")
    def _check_scheduling(self) -> ExperimentSpec:
        if self.scheduling.name != "pbt":
            return self
        if self.search.adaptive or len(self.space.networks) > 1:
            raise ValueError("--scheduler pbt exchanges weights: give one network, and --search grid or random")
        if not self.search.sweep:
            raise ValueError("--scheduler pbt needs something to change, such as --sweep lr=1e-3..1e-2:log")
        for name in self.search.sweep.keys() - CHANGEABLE:
            known = ", ".join(sorted(CHANGEABLE))
            raise ValueError(f"--scheduler pbt cannot change {name} while a trial trains; sweep some of {known}")
        return self

    @property
    def space(self) -> Space:
        """Every configuration that a trial can have."""
        networks = dict.fromkeys(Network(*found[:3]) for found in self.combinations())
        return Space(tuple(networks), self.search.sweep, self.seeds)

    @property
    def search_seed(self) -> int:
        """The seed of a random or an Optuna search."""
        return self.seeds[0] if self.search.search_seed is None else self.search.search_seed

    @property
    def trial_count(self) -> int:
        """How many trials the search tries."""
        return self.search.trials or self.space.size or 0

    def combinations(self) -> Sequence[tuple[str, str, str, int]]:
        """(variant, activation, shortcut, seed), smallest variant first, each once; without what is swept."""
        product = itertools.product(self.variants, self.activations, self.shortcuts, self.seeds)
        own = {name: network_config(name).activation for name in self.variants}
        named = ((name, own[name] if act == OWN else act, cut, seed) for name, act, cut, seed in product)
        return list(dict.fromkeys(named))
