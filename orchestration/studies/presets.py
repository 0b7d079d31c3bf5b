"""The studies of compound scaling and what goes beyond it: each is a question and the sweep that answers it.

Tan and Le 2019 (arXiv:1905.11946): scaling is figures 3 and 8, coefficients section 3.3, the family table 2, transfer
table 5, cam figure 7.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias, get_args

from ...effnet import complexity, network_config
from ...effnet.budget import base_grid
from ...effnet.naming import scaled_name
from ...effnet.scaling import compound_scaling
from ...effnet.stages import SHORTCUTS
from ..search.domains import assignments
from ..training.recipes import RECIPES, Recipe

StudyName = Literal["scaling", "coefficients", "family", "activations", "shortcuts", "transfer", "ema", "cam"]
Fields: TypeAlias = Mapping[str, Any]

# Of the compound coefficient in `scaling`: each step about doubles the multiply-adds.
_PHIS = (1, 2)
# Of the grid of α, β and γ: coarser than the paper's, which 111 networks would be.
_STEP = 0.1
_DEPTHS = (1.0, 1.4, 2.0)
_ACTIVATIONS = ("silu", "relu", "leaky_relu", "elu", "gelu", "mish", "hardswish", "prelu")
# Learning rates that each activation is tried with, as factors on the recipe's. That one was tuned for SiLU.
_RATES = (1 / 4, 1, 4)


@dataclass(frozen=True)
class Study:
    """A preset.

    Attributes:
        title: for people.
        question: what it asks.
        networks: the lists of variants, activations and shortcuts that it compares, for a base network.
        fields: other settings of a specification that it wants.
        tuned: whether each arm is tried with several learning rates, of which it gets the best.
        compared: swept fields whose values are compared with each other; the first value is the reference.
        differences: how many are tested together, by the numbers of variants, activations and shortcuts.
    """

    title: str
    question: str
    networks: Callable[[str], Fields]
    fields: Fields = field(default_factory=dict)
    tuned: bool = False
    compared: tuple[str, ...] = ()
    differences: Callable[[int, int, int], int] = lambda variants, activations, shortcuts: variants - 1


def _scaled(base: str, phis: Sequence[int] = _PHIS) -> Fields:
    """The base, then steps of compound scaling, each with every dimension alone at about its multiply-adds."""
    names = [base]
    for phi in phis:
        compound = _grown(base, vars(compound_scaling(phi)))
        names += [_alone(base, dimension, _macs(compound)) for dimension in ("width", "depth", "resolution")]
        names.append(compound)
    return {"variants": names}


def _grown(base: str, factors: Mapping[str, float]) -> str:
    return scaled_name(base, **{dimension: round(factor, 2) for dimension, factor in factors.items()})


def _alone(base: str, dimension: str, macs: float) -> str:
    """The base with one dimension scaled to the nearest number of multiply-adds; channels and blocks are rounded."""

    def at(step: int) -> str:
        return _grown(base, {dimension: 1 + step / 100})

    steps = range(100 * (2 ** max(_PHIS)))
    after = bisect_left(steps, macs, key=lambda step: _macs(at(step)))
    return min(map(at, steps[max(0, after - 1) : after + 1]), key=lambda name: abs(_macs(name) - macs))


@cache
def _macs(name: str) -> int:
    config = network_config(name)
    return complexity(config, config.resolution).macs


def _coefficients(base: str) -> Fields:
    return {"variants": [base, *(scaled_name(base, beta, alpha, gamma) for alpha, beta, gamma in base_grid(_STEP))]}


_GRADIENTS = MappingProxyType({"execution": {"gradient_norms": True}})

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "scaling": Study(
            "Scaling one dimension or all",
            "What do width, depth and resolution give, each alone and all together, for the same multiply-adds?",
            _scaled,
        ),
        "coefficients": Study(
            "The coefficients of compound scaling",
            "In which proportion should width, depth and resolution grow, if multiply-adds double?",
            _coefficients,
            # All pairs but those of the base: any might have been the best and the next.
            differences=lambda variants, *_: math.comb(variants - 1, 2),
        ),
        "family": Study(
            "The family",
            "What do the models of a family give for their parameters and multiply-adds?",
            lambda _: {"variants": [f"b{number}" for number in range(8)]},
            differences=lambda variants, activations, shortcuts: variants * activations * shortcuts - 1,
        ),
        "activations": Study(
            "Activation functions",
            "Which activation is the best, each with its own learning rate, and what does it do to the gradient?",
            lambda base: {"variants": [base], "activations": _ACTIVATIONS},
            _GRADIENTS,
            tuned=True,
            differences=lambda _, activations, __: activations - 1,
        ),
        "shortcuts": Study(
            "Shortcuts as networks get deeper",
            "What do skip connections of each kind give as the network gets deeper, and what to the gradient?",
            lambda base: {
                "variants": [scaled_name(base, depth=depth) for depth in _DEPTHS],
                "shortcuts": SHORTCUTS,
            },
            _GRADIENTS,
            differences=lambda variants, _, shortcuts: variants * (shortcuts - 1),
        ),
        "transfer": Study(
            "Transfer from published weights",
            "What do published ImageNet weights give on these data, against a start from random weights?",
            lambda base: {"variants": [base]},
            {"recipe": {"pretrained": [False, True]}},
            tuned=True,
            compared=("pretrained",),
            differences=lambda variants, activations, shortcuts: variants * activations * shortcuts,
        ),
        "ema": Study(
            "Averaged weights",
            "What do averages of the weights give, of which decay, at the best epoch and at the last?",
            lambda base: {"variants": [base]},
            {"recipe": {"ema": [0.0, 0.9, 0.99, 0.999]}},
            compared=("ema",),
            differences=lambda variants, activations, shortcuts: 3 * variants * activations * shortcuts,
        ),
        "cam": Study(
            "Where scaled networks look",
            "Where does a network look on the same photographs, scaled in one dimension or in all?",
            lambda base: _scaled(base, _PHIS[-1:]),
            differences=lambda *_: 0,  # pictures are looked at
        ),
    }
)
assert tuple(STUDIES) == get_args(StudyName)


def fill(name: str, fields: Fields, bases: Sequence[str] = ("b0",)) -> dict[str, Any]:
    """The fields of a specification, with the study's where a person said nothing.

    Args:
        name: of the study.
        fields: as people write them.
        bases: the networks that are scaled or varied, if `fields` have no variants.

    Raises:
        ValueError: there is no such base network.
    """
    study = STUDIES[name]
    networks = [study.networks(base) for base in bases]
    variants = list(dict.fromkeys(name for found in networks for name in found["variants"]))
    filled = {**networks[0], "variants": variants, **fields, "study": name}
    for section, wanted in study.fields.items():
        filled[section] = {**wanted, **_section(fields, section)}
    if study.tuned and (rates := _rates(fields)):
        filled["recipe"] = {**_section(filled, "recipe"), "lr": rates}
    return filled


def _section(fields: Fields, name: str) -> Fields:
    """A section of a specification; the recipe may be said in a word. What is none is told where it is read."""
    found = fields.get(name, {})
    return {"name": found} if isinstance(found, str) else found if isinstance(found, Mapping) else {}


def _rates(fields: Fields) -> list[float] | None:
    """Learning rates around the recipe's; None where the fields have several, or a recipe that is none."""
    recipe = _section(fields, "recipe")
    if "lr" in assignments(_section(fields, "search").get("sweep")):
        return None
    named = RECIPES.get(recipe.get("name", "basic"), {})
    try:
        rate = float(recipe.get("lr", named.get("lr", Recipe.model_fields["lr"].default)))
    except (TypeError, ValueError):
        return None  # a list, or a mistake that the recipe tells
    return [float(f"{rate * factor:.4g}") for factor in _RATES]


class Compared(Protocol):
    """What a specification says of its networks."""

    @property
    def study(self) -> StudyName | None: ...
    @property
    def variants(self) -> tuple[str, ...]: ...
    @property
    def activations(self) -> tuple[str, ...]: ...
    @property
    def shortcuts(self) -> tuple[str, ...]: ...


def comparisons(spec: Compared) -> int:
    """How many differences a specification's study tests; 0 without a study."""
    if spec.study is None:
        return 0
    return STUDIES[spec.study].differences(len(spec.variants), len(spec.activations), len(spec.shortcuts))
