"""The trials of a running experiment, read again and again at a cost that does not grow with those that have ended."""

from __future__ import annotations

from collections.abc import Sequence

from .records import TrialRecord
from .runs import Tracker


class TrialWatch:
    """Remembers the trials that have ended, and asks for the others.

    Args:
        tracker: of the experiment.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._known: dict[str, TrialRecord] = {}

    def look(self) -> Sequence[TrialRecord]:
        """Every trial that has started, as it stands now.

        A trial that starts and ends between two looks is missing until `look_at_all`.

        Raises:
            EngineError: the server cannot be reached or refuses.
        """
        if not self._known:
            return self.look_at_all()
        running = self._tracker.running_trials()
        alive = {record.run_id for record in running}
        ended = [run_id for run_id, record in self._known.items() if not record.outcome.is_terminal]
        self._note(running)
        self._note([self._tracker.trial(run_id) for run_id in ended if run_id not in alive])
        return list(self._known.values())

    def look_at_all(self) -> Sequence[TrialRecord]:
        """The same, read whole."""
        self._note(self._tracker.trials())
        return list(self._known.values())

    def _note(self, records: Sequence[TrialRecord]) -> None:
        self._known |= {record.run_id: record for record in records}
