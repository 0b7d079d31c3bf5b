"""Sources of trials: what a sweep may start next, and what it does with the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..training.job import TrialPlan


class TrialSource(Protocol):
    """Hands out the trials of a sweep. One process uses it, from one thread."""

    def waiting(self) -> Sequence[TrialPlan]:
        """The trials that may start now and that nobody has taken, in the order in which they were planned.

        Empty although the source is not exhausted: ask again when a trial has ended.
        """

    def take(self, trial_id: str) -> None:
        """Note that a waiting trial starts. Raises `KeyError` if none of that name waits."""

    def ended(self, trial_id: str, outcome: str, values: Mapping[str, float] | None = None) -> None:
        """Note how a trial has ended. Telling it again changes nothing.

        Args:
            trial_id: a trial that was taken, here or by a former driver.
            outcome: one of the words of `Outcome`.
            values: what it measured, by the names of objectives. `share`, from 0 to 1, is how much of its training a
                stopped trial has done.
        """

    @property
    def exhausted(self) -> bool:
        """Whether no trial waits and none will; those that were taken may still run."""


class PlannedSource:
    """Trials that are all known before. Each call takes the same time for any number of them, but for a copy.

    Args:
        trials: in the order in which they are to wait.
    """

    def __init__(self, trials: Sequence[TrialPlan]) -> None:
        self._left = {trial.trial_id: trial for trial in trials}
        self._waiting: tuple[TrialPlan, ...] | None = None

    def waiting(self) -> Sequence[TrialPlan]:
        """See `TrialSource`."""
        if self._waiting is None:
            self._waiting = tuple(self._left.values())
        return self._waiting

    def take(self, trial_id: str) -> None:
        """See `TrialSource`."""
        del self._left[trial_id]
        self._waiting = None

    def ended(self, trial_id: str, outcome: str, values: Mapping[str, float] | None = None) -> None:
        """See `TrialSource`; what comes next does not depend on it."""

    @property
    def exhausted(self) -> bool:
        """See `TrialSource`."""
        return not self._left
