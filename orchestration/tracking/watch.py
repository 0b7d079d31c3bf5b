"""The trials of a running experiment, read again and again at a cost that does not grow with those that have ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .records import Outcome, TrialRecord
from .runs import Tracker

# Trials per look that are asked for one by one.
_MOST_SINGLY = 20


class TrialWatch:
    """Remembers the trials that have ended, and asks for the others.

    A look takes two requests, and one more per full page of trials that run or have ended since the last look.

    Args:
        tracker: of the experiment.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._known: dict[str, TrialRecord] = {}

    def look(self) -> Sequence[TrialRecord]:
        """Every trial that has started, as it stands now.

        Where the clocks of nodes differ, a trial that starts and ends between two looks is missing until `look_at_all`.

        Raises:
            EngineError: the server cannot be reached or refuses.
        """
        if not self._known:
            return self.look_at_all()
        last_end = max((record.ended or 0.0 for record in self._known.values()), default=0.0)
        fresh = [*self._tracker.running_trials(), *self._tracker.ended_trials(last_end)]
        seen = {record.run_id for record in fresh}
        # A scheduler has paused them, or they have ended by a clock that is behind the others.
        gone = [run_id for run_id, record in self._known.items() if record.outcome is Outcome.RUNNING]
        gone = [run_id for run_id in gone if run_id not in seen][:_MOST_SINGLY]
        self._note(fresh)
        self._note(self._tracker.trial(run_id) for run_id in gone)
        return list(self._known.values())

    def look_at_all(self) -> Sequence[TrialRecord]:
        """The same, read whole."""
        self._note(self._tracker.trials())
        return list(self._known.values())

    def _note(self, records: Iterable[TrialRecord]) -> None:
        self._known |= {record.run_id: record for record in records}
