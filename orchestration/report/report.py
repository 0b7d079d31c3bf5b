"""The report of experiments: one HTML file that works without a network and prints well."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..tracking.records import Outcome
from . import overview
from .accuracy import PublishedPoint, accuracy, curves
from .activations import activations
from .champion import Champion, champion
from .contents import Reported
from .fields import fields
from .page import write_page
from .schedule import faults, predictions, schedule
from .studies.sections import studies
from .studies.sights import Sight, sights_section


def write_report(
    experiments: Sequence[Reported],
    published: Sequence[PublishedPoint] = (),
    price_per_hour: float | None = None,
    champions: Sequence[tuple[str, Champion | str]] = (),
    sights: Sequence[tuple[str, Sequence[Sight] | str]] = (),
) -> bytes:
    """The file's content. Sections are there only where there is something to say.

    Args:
        experiments: one or more; those on the same data are compared with each other.
        published: points to show beside theirs.
        price_per_hour: of a worker, for what the trials cost.
        champions: names of experiments, each with its best model or with why that cannot be shown.
        sights: names of experiments, each with what its models see on the same images, or with why that is not there.
    """
    names = ", ".join(experiment.name for experiment in experiments)
    sections = [
        overview.asked(experiments),
        *studies(experiments, published),
        sights_section(sights),
        accuracy(experiments, published),
        overview.over_seeds(experiments),
        activations([one for one in experiments if not _studies_activations(one)]),
        fields(experiments),
        curves(experiments),
        champion(champions),
        schedule(experiments),
        predictions(experiments, price_per_hour),
        faults(experiments),
        overview.trials(experiments),
        overview.reproduce(experiments),
    ]
    return write_page(f"Experiments: {names}", _subtitle(experiments), sections)


def _studies_activations(experiment: Reported) -> bool:
    """Whether its study has the same numbers, each activation at its own settings."""
    return experiment.study is not None and experiment.study.name == "activations"


def _subtitle(experiments: Sequence[Reported]) -> str:
    told = []
    for experiment in experiments:
        states = [record.outcome for record in experiment.records]
        counts = [f"{states.count(state):,} {state}" for state in Outcome if state in states]
        left = experiment.planned - len(states)
        counts += [f"{left:,} not started"] if left > 0 else []
        told.append(f"{experiment.name} is {experiment.state}: {', '.join(counts) or 'no trials'}")
    return f"{'; '.join(told)}. Written {time.strftime('%Y-%m-%d %H:%M %Z')}."
