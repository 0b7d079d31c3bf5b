"""How the trials of an experiment stand: a row per trial, from its plan and what was logged of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

from ..training.job import TrialPlan
from .records import Outcome, TrialRecord


@dataclass(frozen=True)
class TrialProgress:
    """One trial as it stands.

    Attributes:
        state: None where the tracking server could not be asked.
        epoch, epochs: how many are trained, and how many there will be.
        top1: the best validation top-1 so far, a fraction; None before the first epoch has ended.
        elapsed_s: seconds since it last began to run, up to its end; None before that.
        rest_s: predicted seconds of training that are left, by its own epochs so far; None where it has none.
        reason: in one line why it ended so; empty where that needs none.
    """

    trial: str
    state: Outcome | None
    epoch: int
    epochs: int
    top1: float | None = None
    elapsed_s: float | None = None
    rest_s: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def progress_of(
    trials: Iterable[TrialPlan],
    records: Sequence[TrialRecord] | None,
    experiment: Outcome | None,
    cancelled: Set[str] = frozenset(),
) -> list[TrialProgress]:
    """How trials stand, in the order of the plan; those that no plan lists, such as a searcher's, come last.

    Args:
        trials: that are planned.
        records: of those that have run; None where the tracking server could not be asked.
        experiment: the state of the whole; None where it could not be asked.
        cancelled: ids of the trials that the user wants to end.
    """
    known = {record.trial_id: record for record in records or ()}
    planned = {trial.trial_id: trial.recipe.epochs for trial in trials}
    rows = []
    for trial_id in [*planned, *(known.keys() - planned.keys())]:
        record = known.get(trial_id)
        if record:
            rows.append(_of_record(record, planned.get(trial_id, record.epochs), trial_id in cancelled))
        else:
            state = None if records is None else _unstarted(experiment, trial_id in cancelled)
            rows.append(TrialProgress(trial_id, state, 0, planned[trial_id]))
    return rows


def count_states(rows: Iterable[TrialProgress]) -> str:
    """How many trials are in which state, such as `2 completed, 1 running`; in the order of a trial's life."""
    counts = Counter(row.state for row in rows)
    told = [f"{counts[state]:,} {state}" for state in Outcome if counts[state]]
    return ", ".join([*told, f"{counts[None]:,} unknown"] if counts[None] else told)


def _unstarted(experiment: Outcome | None, is_cancelled: bool) -> Outcome:
    if is_cancelled:
        return Outcome.CANCELLED
    return Outcome.PENDING if experiment in (Outcome.PENDING, Outcome.RUNNING) else Outcome.PLANNED


def _of_record(record: TrialRecord, epochs: int, is_cancelled: bool) -> TrialProgress:
    elapsed = None
    if record.began is not None and record.outcome is not Outcome.PENDING:
        elapsed = max(0.0, (record.ended or time.time()) - record.began)
    rest = None
    if record.outcome.is_finished:
        rest = 0.0
    elif record.epochs_done:
        rest = record.seconds / record.epochs_done * max(0, epochs - record.epochs_done)
    return TrialProgress(
        trial=record.trial_id,
        state=Outcome.CANCELLED if is_cancelled and record.outcome is Outcome.PENDING else record.outcome,
        epoch=record.epochs_done,
        epochs=epochs,
        top1=record.best_top1,
        elapsed_s=elapsed,
        rest_s=rest,
        reason=record.reason,
    )
