"""What a report is made from: experiments with their trials, and what was logged of each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..tracking.histories import EpochPoint
from ..tracking.records import TrialRecord


@dataclass(frozen=True)
class VariantAsked:
    """What a variant stands for in a study.

    Attributes:
        kind: which dimension is scaled: `base`, `width`, `depth`, `resolution` or `compound`; `triple` of one of the
            coefficients' grid; empty where variants are no scaled ones.
        factor: of the scaling, such as 1.4 times as deep; of compound scaling, the factor on the multiply-adds.
        label: a few words for figures and tables, such as `depth x 1.4` or `α 1.2, β 1.1, γ 1.15`.
        base: the variant that it is compared with, itself of a base; a study may have several.
    """

    kind: str
    factor: float
    label: str
    base: str = ""


@dataclass(frozen=True)
class StudyAsked:
    """The study that an experiment belongs to.

    Attributes:
        name: `scaling`, `coefficients`, `family`, `activations` or `shortcuts`.
        title: for people.
        question: what it asks, in a sentence or two.
        variants: what each variant stands for.
        compared: swept fields whose values it compares; other swept fields are tuned.
    """

    name: str
    title: str
    question: str
    variants: Mapping[str, VariantAsked] = field(default_factory=dict)
    compared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reported:
    """One experiment as a report shows it.

    Attributes:
        name: the experiment's.
        state: how it stands, in words.
        records: of the trials that have started.
        histories: the finished epochs of each, by their runs' ids.
        planned: how many trials there will be.
        study: the study that they belong to; None of others.
        asked, data, hardware: what was asked for, on what data and on what machines: names and values, to be shown.
        data_name: a short name of the data.
        settings: every setting, by its name.
        spec_yaml: the specification as `submit --spec` takes it.
        made_with: the software's versions, and what tells the data from others.
    """

    name: str
    state: str
    records: Sequence[TrialRecord]
    histories: Mapping[str, Sequence[EpochPoint]]
    planned: int
    study: StudyAsked | None = None
    asked: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    data_name: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    spec_yaml: str = ""
    made_with: Mapping[str, str] = field(default_factory=dict)

    def epochs(self, record: TrialRecord) -> Sequence[EpochPoint]:
        """The finished epochs of a trial."""
        return self.histories.get(record.run_id, ())


@dataclass(frozen=True)
class DataSet:
    """The trials of all experiments on the same data, whose accuracies can be compared.

    Attributes:
        name: of the data.
        number: from 1, in the order of the report.
        trials: each with its experiment.
    """

    name: str
    number: int
    trials: Sequence[tuple[Reported, TrialRecord]]

    def title(self, text: str, of: int) -> str:
        """A title that says which data are meant, where there are several."""
        return f"{text}: {self.name}" if of > 1 else text

    @property
    def by_experiment(self) -> dict[str, list[TrialRecord]]:
        """The trials of each experiment."""
        found: dict[str, list[TrialRecord]] = {}
        for experiment, record in self.trials:
            found.setdefault(experiment.name, []).append(record)
        return found


def data_sets(experiments: Sequence[Reported]) -> list[DataSet]:
    """The data sets of experiments, in the order in which they come."""
    found: dict[str, list[tuple[Reported, TrialRecord]]] = {}
    for experiment in experiments:
        for record in experiment.records:
            found.setdefault(record.data_digest, []).append((experiment, record))
    return [
        DataSet(f"{trials[0][0].data_name} ({digest[:8]})", number, trials)
        for number, (digest, trials) in enumerate(found.items(), 1)
    ]


def all_trials(experiments: Sequence[Reported]) -> Iterator[tuple[Reported, TrialRecord]]:
    """Every trial with its experiment."""
    return ((experiment, record) for experiment in experiments for record in experiment.records)


def best_epoch(epochs: Sequence[EpochPoint]) -> EpochPoint | None:
    """The first epoch with the best validation top-1; None where none has one."""
    known = [point for point in epochs if point.top1 is not None]
    return max(known, key=lambda point: point.top1 or 0.0, default=None)
