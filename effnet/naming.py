"""Names of models that people write: the published ones, ``b2.5`` for any φ, ``b0-w1.4-r1.3`` for one's own scaling."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .baselines.config import BASELINES, own_name
from .config import EfficientNetConfig
from .scaling import compound_scaling
from .variants import VARIANTS, published

MAX_PHI = 8
"""The largest φ that has a name. Nobody has trained the rule beyond; a typing mistake such as b77 should be told."""

_NUMBER = r"(?:0|[1-9]\d*)(?:\.\d{1,4})?"
_PHI = re.compile(rf"b({_NUMBER})")
_SCALE = re.compile(rf"([wdr])({_NUMBER})")
_MAX_SCALE = 100
# Resolutions are multiples of 8, as where a plan scales them: the first three strides divide without a rest.
_RESOLUTION_STEP = 8
# The paper, section 5.2: "we linearly increase dropout ratio from 0.2 for EfficientNet-B0 to 0.5 for EfficientNet-B7".
_DROPOUT_B0, _DROPOUT_B7 = 0.2, 0.5


@dataclass(frozen=True)
class _Name:
    """A name taken apart: the model that is scaled, and by what; factors of 1 are left out."""

    base: str
    phi: float | None = None
    factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "-".join([self.base, *(f"{sign}{self.factors[sign]:g}" for sign in "wdr" if sign in self.factors)])


def canonical_name(name: str) -> str:
    """Return the one way to write ``name``: ``b0-d2.0-w1.40`` is ``b0-w1.4-d2``, ``b0-w1.0`` is ``b0``.

    Names of ``BASELINES`` stay. Torchvision's names of networks that are ours give ours, with or without factors:
    ``mobilenet_v2-w2`` is ``mobilenetv2-w2``.

    Raises:
        ValueError: no such network, in one line that says why.
    """
    return name if name in BASELINES else _parse(name).text


def phi_name(phi: float) -> str:
    """Return the name of B0 scaled by φ, as in ``b2.5``.

    Raises:
        ValueError: φ is out of range or has more than four decimals, or the name is that of a published model, which is
            *not* on the curve.
    """
    name = f"b{phi:g}"
    parsed = _parse(name)
    if phi and parsed.phi != phi:
        raise ValueError(f"φ = {phi!r} has no name: '{name}' is another model")
    return name


def scaled_name(base: str, width: float = 1.0, depth: float = 1.0, resolution: float = 1.0) -> str:
    """Return the canonical name of ``base`` with its width, depth and resolution multiplied, as in ``b0-w1.4-d1.2``.

    The base may have factors of its own: ``b0-w0.5`` twice as wide is ``b0``.

    Raises:
        ValueError: the base is unknown or a factor is out of range.
    """
    parsed = _parse(base)
    stem = _Name(parsed.base, parsed.phi).text
    by_sign = {"w": width, "d": depth, "r": resolution}
    products = {sign: round(factor * parsed.factors.get(sign, 1.0), 4) for sign, factor in by_sign.items()}
    return canonical_name("-".join([stem, *(f"{sign}{product:g}" for sign, product in products.items())]))


def variant(name: str, /, **overrides: Any) -> EfficientNetConfig:
    """Return the configuration that ``name`` stands for, under its canonical name, with some fields replaced.

    Names are, in lower case:

    - the published models' (``VARIANTS``), whose coefficients are data;
    - ``b<φ>`` for every other φ from 0 to ``MAX_PHI``: B0 scaled by equation 3 of the paper, that is depth 1.2^φ, width
      1.1^φ, resolution 1.15^φ. Dropout grows with φ from B0's 0.2 to B7's 0.5 as in section 5.2, and no further;
    - either of them followed by factors: ``-w`` width, ``-d`` depth, ``-r`` resolution, in any order. They multiply
      what the model has, so that ``-w1`` changes nothing; dropout is the model's.

    Resolutions are rounded to multiples of 8 pixels; ``eval_resize`` keeps its ratio to them. Numbers have at most four
    decimals.

    Args:
        name: what people write.
        overrides: as in ``published``; they win over what the name says.

    Raises:
        ValueError: no such model, in one line that says why; or as ``published``.
    """
    parsed = _parse(name)
    if parsed.phi is None and not parsed.factors:
        return published(parsed.base, **overrides)
    base_name = parsed.base if parsed.phi is None else "b0"
    base = VARIANTS[base_name]
    scale = compound_scaling(parsed.phi or 0.0)
    exact = base.resolution * scale.resolution * parsed.factors.get("r", 1.0)
    resolution = max(_RESOLUTION_STEP, round(exact / _RESOLUTION_STEP) * _RESOLUTION_STEP)
    if parsed.phi is None and "r" not in parsed.factors:
        resolution = base.resolution  # of which not all are multiples of 8
    fields: dict[str, Any] = {
        "name": parsed.text,
        "width": base.width * scale.width * parsed.factors.get("w", 1.0),
        "depth": base.depth * scale.depth * parsed.factors.get("d", 1.0),
        "resolution": resolution,
        "eval_resize": round(resolution * base.eval_resize / base.resolution),
    }
    if parsed.phi is not None:
        fields["dropout"] = round(min(_DROPOUT_B0 + (_DROPOUT_B7 - _DROPOUT_B0) * parsed.phi / 7, _DROPOUT_B7), 4)
    return published(base_name, **(fields | overrides))


def _parse(name: str) -> _Name:
    if not isinstance(name, str):
        raise ValueError(f"a variant is a name such as 'b0', not {name!r}")
    base, *parts = name.split("-")
    base, phi = own_name(base), None
    if base not in VARIANTS:
        base, phi = _parse_phi(name, base)
    return _Name(base, phi, _parse_factors(name, parts))


def _parse_phi(name: str, base: str) -> tuple[str, float | None]:
    """The canonical base, and its φ unless that is the name of a published model (``b3.0``)."""
    match = _PHI.fullmatch(base)
    if match is None and base in BASELINES:
        raise ValueError(f"variant '{name}': {base} is torchvision's and cannot be scaled; write '{base}'")
    if match is None:
        raise ValueError(
            f"unknown variant '{name}'; choose from {', '.join(VARIANTS)}, or scale one: b0-w1.4-d1.2-r1.3, b2.5; "
            "or one of torchvision's, such as resnet18, densenet169 or mobilenet_v3_large"
        )
    phi = float(match[1])
    if phi > MAX_PHI:
        raise ValueError(f"variant '{name}': φ goes up to {MAX_PHI}")
    canonical = f"b{phi:g}"
    return canonical, None if canonical in VARIANTS else phi


def _parse_factors(name: str, parts: list[str]) -> dict[str, float]:
    factors: dict[str, float] = {}
    for part in parts:
        match = _SCALE.fullmatch(part)
        if match is None:
            raise ValueError(
                f"variant '{name}': '{part}' is no factor; write w (width), d (depth) or r (resolution) and a number "
                "of at most four decimals, such as w1.4"
            )
        sign, factor = match[1], float(match[2])
        if sign in factors:
            raise ValueError(f"variant '{name}': '{sign}' is given twice")
        if not 0 < factor < _MAX_SCALE:
            raise ValueError(f"variant '{name}': '{part}' is not between 0 and {_MAX_SCALE}")
        factors[sign] = factor
    return {sign: factor for sign, factor in factors.items() if factor != 1}
