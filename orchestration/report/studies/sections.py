"""A section per experiment that belongs to a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..accuracy import PublishedPoint
from ..contents import Reported
from ..parts import Part, Section
from . import activations, coefficients, family, scaling, shortcuts, values
from .arms import Group, arms_of, groups_of
from .words import account

_NETWORK = ("activation", "shortcut")
_APART: Mapping[str, Sequence[str]] = {
    "scaling": (*_NETWORK, "base"),
    "coefficients": (*_NETWORK, "base"),
    "family": (),  # baselines have their own activations
    "activations": ("variant", "shortcut"),
    "shortcuts": ("activation",),
    "transfer": (),
    "ema": (),
    "cam": (),
}
"""In what the arms of each study have to be alike to be compared."""


def studies(experiments: Sequence[Reported], published: Sequence[PublishedPoint] = ()) -> list[Section]:
    """The sections of those experiments that have a study.

    Args:
        experiments: of the report.
        published: for the study of the family.
    """
    own = [experiment for experiment in experiments if experiment.study]
    named = len(experiments) > 1
    sections = [_section(experiment, number, named, published) for number, experiment in enumerate(own, 1)]
    transfers = [experiment for experiment in own if experiment.study and experiment.study.name == "transfer"]
    return [*sections, *([values.over_data(transfers)] if len(transfers) > 1 else [])]


def _section(experiment: Reported, number: int, named: bool, published: Sequence[PublishedPoint]) -> Section:
    study = experiment.study
    assert study is not None
    readers: Mapping[str, Callable[[Group], list[Part]]] = {
        "scaling": scaling.parts,
        "coefficients": coefficients.parts,
        "family": partial(family.parts, published=published),
        "activations": activations.parts,
        "shortcuts": shortcuts.parts,
        "transfer": values.parts,
        "ema": values.parts,
        "cam": family.parts,
    }
    key, arms = f"study-{number}", arms_of(experiment)
    found: list[Part] = [study.question] if study.question else []
    found.append(account(experiment, arms))
    if study.name in readers:
        for group in groups_of(arms, key, _APART[study.name]):
            found += readers[study.name](group)
    title = f"Study: {study.title}" + (f" ({experiment.name})" if named else "")
    return Section(key, title, found)
