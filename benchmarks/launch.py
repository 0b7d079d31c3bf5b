"""How long a trial takes to begin and to end, step by step, and a submitted one to begin, against a plain torchrun
script, in turns.

Each round submits two trials that run one after the other, on engines that run already, and starts the script once:
the same network, data and ranks. `effnet-cluster bench launch` prints the table.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..orchestration.errors import EngineError
from ..orchestration.plan import Plan
from ..orchestration.tracking.records import TrialRecord
from ..orchestration.tracking.runs import Tracker
from ..orchestration.training import metrics
from .pairing import Progress, Ratio, ratio, take_turns
from .train import OURS, TORCHRUN, run_torchrun, task_of

START, NEXT, END = "submitted to first step", "one's last epoch to the next one's first step", "last epoch to the end"


@dataclass(frozen=True, order=True)
class Moments:
    """Of one trial, in seconds since 1970: its run and rank 0's worker began, its first step and its last epoch had
    ended, and its model was logged."""

    began: float
    worker: float
    first_step: float
    trained: float
    ended: float


@dataclass(frozen=True)
class LaunchResult:
    """Seconds in the median round.

    Attributes:
        parts: of what the keys name, by what happens in them, in order; they add up to the whole of each round.
        torchrun: from the script's start to its first step.
        start: how many times as long a submitted trial takes to its first step as the script; paired by round.
    """

    parts: dict[str, dict[str, float]]
    torchrun: float
    start: Ratio


def measure(
    submit: Callable[[int], Tracker],
    plan: Plan,
    workers: int,
    cache: Path,
    folder: Path,
    rounds: int,
    progress: Progress = lambda done, total, what: None,
) -> LaunchResult:
    """Measure the launches of a plan of two trials that run one after the other.

    Args:
        submit: submits the plan as a user does, the how-manieth time is told, and returns when its job has ended.
        plan: what is submitted.
        workers: ranks of each trial and of the script.
        cache: where the data are.
        folder: takes the script's files.
        rounds: measured rounds.
        progress: told of every launch.

    Raises:
        EngineError: a job or the script failed.
    """
    began: dict[str, list[float]] = {OURS: [], TORCHRUN: []}
    submitted: list[list[Moments]] = []
    first_steps: list[float] = []

    def ours() -> None:
        began[OURS].append(time.time())
        tracker = submit(len(began[OURS]))
        submitted.append(sorted(moments_of(tracker, record) for record in tracker.trials()))

    def theirs() -> None:
        task = task_of(plan.examples[0], plan.spec, cache, folder / "torchrun.pt")
        began[TORCHRUN].append(time.time())
        first_steps.append(run_torchrun(task, workers, 1, folder)[0].first_step)

    take_turns({OURS: ours, TORCHRUN: theirs}, rounds, progress=progress)
    starts = list(zip(began[OURS], submitted, strict=True))[-rounds:]
    script = [end - start for start, end in zip(began[TORCHRUN], first_steps, strict=True)][-rounds:]
    return summarise(starts, script)


def moments_of(tracker: Tracker, record: TrialRecord) -> Moments:
    """When what happened of a completed trial, from what it has logged.

    Raises:
        EngineError: it is not completed.
    """
    worker, epochs = (tracker.history(record.run_id, name) for name in (metrics.WORKER_AT, metrics.EPOCH))
    if record.began is None or record.first_step is None or record.ended is None or not worker or not epochs:
        raise EngineError(f"{record.trial_id} is {record.outcome.value}: {record.reason}")
    return Moments(record.began, worker[0].value, record.first_step, epochs[-1].logged_at, record.ended)


def summarise(starts: Sequence[tuple[float, Sequence[Moments]]], script: Sequence[float]) -> LaunchResult:
    """The result of rounds: when each was submitted and what its two trials did, and the script's seconds."""
    found: dict[str, list[Mapping[str, float]]] = {START: [], NEXT: [], END: []}
    for submitted, (first, second) in starts:
        found[START].append(
            {
                "submit, driver, the trial's process": first.began - submitted,
                "workers": first.worker - first.began,
                "data, network, first step": first.first_step - first.worker,
            }
        )
        found[NEXT].append(
            {
                "until its run begins": second.began - first.trained,
                "workers": second.worker - second.began,
                "data, network, first step": second.first_step - second.worker,
            }
        )
        found[END].append({"model exported and logged": first.ended - first.trained})
    parts = {
        whole: {name: statistics.median(round_[name] for round_ in rounds) for name in rounds[0]}
        for whole, rounds in found.items()
    }
    return LaunchResult(
        parts,
        statistics.median(script),
        ratio(script, [first.first_step - submitted for submitted, (first, _) in starts]),
    )
