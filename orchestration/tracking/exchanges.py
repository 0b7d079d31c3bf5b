"""What a trial's run says of the weights that it has taken over from other trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import tags
from .runs import Tracker


def note_exchange(
    tracker: Tracker,
    run_id: str,
    number: int,
    epoch: int,
    donor: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    """Note with a trial's run that it has taken over the weights of another trial.

    Args:
        tracker: of the experiment.
        run_id: the trial's.
        number: of the exchange, from 1.
        epoch: finished epochs of the weights.
        donor: the other trial.
        before, after: the swept fields of the trial's recipe, which it has changed.

    Raises:
        EngineError: the server cannot be reached or refuses.
    """
    changed = ", ".join(f"{name} {before[name]} → {after[name]}" for name in after if before[name] != after[name])
    tracker.client.set_tag(run_id, f"{tags.EXCHANGE}{number}", f"epoch {epoch}: weights of {donor}; {changed}")
