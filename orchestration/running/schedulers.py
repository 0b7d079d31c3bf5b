"""Schedulers: which trials of a sweep stop early, pause, or take over another one's weights. All are Ray Tune's own.

Trials are compared at the same share of their own steps, so that a long training and a short one are comparable.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from ..scheduling import Scheduling
from ..search.domains import Choice, Domain, Span
from ..training.metrics import TOP1

PERCENT = "percent"
"""In a trial's reports: how much of its own steps is done."""
_ALL = 100.0


def _mutations(domain: Domain) -> Any:
    """A domain in Tune's terms."""
    if isinstance(domain, Choice):
        return list(domain.values)
    low, high = domain.low, domain.high
    if domain.whole:
        return (tune.lograndint if domain.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(low, high)


def _within(domain: Domain, value: Any) -> Any:
    """A perturbed value, or the end of the domain that it has left."""
    return domain.rounded(value) if isinstance(domain, Span) else value


class Room(Protocol):
    """Where the trials of a sweep run, as far as a scheduler that pauses them must know."""

    @property
    def wanted(self) -> bool:
        """Whether trials wait that have not started yet."""

    def stopped(self, name: str, reason: str) -> None:
        """A trial is stopped for good; called once for it."""

    def gives_way(self, name: str) -> None:
        """A trial leaves its place: it is paused, or all that is left is to log its model."""

    def go_on(self, name: str) -> bool:
        """Whether a paused trial goes on now; then it has a place again."""


class Point(NamedTuple):
    """A trial's validation top-1, a fraction, after so many percent of its steps."""

    percent: float
    top1: float


def make_scheduler(scheduling: Scheduling, sweep: Mapping[str, Domain]) -> TrialScheduler:
    """Tune's scheduler of that name.

    Args:
        scheduling: which, and its settings.
        sweep: the swept fields, which pbt changes within their domains.
    """
    first = _ALL * scheduling.min_share
    compared = {"time_attr": PERCENT, "metric": TOP1, "mode": "max"}
    match scheduling.name:
        case "asha":
            # Otherwise a trial whose epoch spans two rungs would later be entered at the lower one, with a later value.
            once = {"stop_last_trials": False}
            factor = scheduling.reduction
            return ASHAScheduler(**compared, **once, max_t=_ALL, grace_period=first, reduction_factor=factor)
        case "hyperband":
            return HyperBandScheduler(**compared, max_t=_ALL, reduction_factor=scheduling.reduction)
        case "median":
            # Never pausing a trial until others have reported: they do not wait for its turn to end, but for room.
            never = {"min_time_slice": math.inf}
            return MedianStoppingRule(**compared, **never, grace_period=first, min_samples_required=3)
        case "pbt":
            return PopulationBasedTraining(
                **compared,
                perturbation_interval=first,
                burn_in_period=first,
                hyperparam_mutations={name: _mutations(domain) for name, domain in sweep.items()},
                custom_explore_fn=lambda config: config | {name: _within(sweep[name], config[name]) for name in sweep},
                quantile_fraction=scheduling.exchanged,
                # All exchange at the same share of their steps; otherwise only whoever was good at its own last
                # exchange, among those that had come as far, could give its weights away.
                synch=True,
                log_config=False,
            )
        case _:
            return FIFOScheduler()


class ReasonedScheduler(TrialScheduler):  # type: ignore[misc]
    """One of Tune's schedulers, which also says why it stops a trial, and continues a paused one where there is room.

    Tune's pausing schedulers expect to know all trials from the start. Ours are told to Tune when they start; so those
    that have started give way to those that wait, at the first exchange (pbt) or report (hyperband), and the scheduler
    hears of their reports when all have started.

    Args:
        scheduling: which, and its settings.
        inner: Tune's.
        room: where the trials run.
    """

    def __init__(self, scheduling: Scheduling, inner: TrialScheduler, room: Room) -> None:
        super().__init__()
        self._scheduling, self._inner, self._room = scheduling, inner, room
        self._curves: dict[str, list[Point]] = defaultdict(list)
        self._ended: set[str] = set()
        # Reports that a pausing scheduler is told once all trials have started, and trials that go on then.
        self._held: dict[Trial, dict[str, Any]] = {}
        self._ready: list[Trial] = []
        self._gathers_at = {"hyperband": 0.0, "pbt": _ALL * scheduling.min_share}.get(scheduling.name, math.inf)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its scheduler down with all that it refers to, and no job of ours goes on from that."""
        return {}

    @property
    def metric(self) -> str | None:
        """Asked for by Tune, which would refuse reports without it."""
        return None

    @property
    def supports_buffered_results(self) -> bool:
        """Each report may be a reason to stop."""
        return False

    def replay(self, curves: Mapping[str, Iterable[Point]]) -> None:
        """Tell what trials reported in an earlier job, by their names, so that later ones are compared with them."""
        for name, curve in curves.items():
            self._curves[name] = list(curve)
            if isinstance(self._inner, ASHAScheduler | MedianStoppingRule):
                trial = _Replayed(name)
                self._inner.on_trial_add(None, trial)
                for point in self._curves[name]:
                    self._inner.on_trial_result(None, trial, point._asdict() | {TOP1: point.top1})

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Called by Tune when a trial is there."""
        # Population based training refuses searchers, which would choose other values; ours hands out planned trials.
        seen = SimpleNamespace(search_alg=None) if self._scheduling.name == "pbt" else tune_controller
        self._inner.on_trial_add(seen, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Called by Tune when a trial has failed."""
        self._ended.add(str(trial))
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Called by Tune after each epoch of a trial; returns what becomes of it."""
        name, point = str(trial), Point(result[PERCENT], result[TOP1])
        self._curves[name].append(point)
        if point.percent >= _ALL:
            # What is left is to log the model, on one core; meanwhile the next trial's process can start.
            self._room.gives_way(name)
            return str(TrialScheduler.CONTINUE)
        if point.percent >= self._gathers_at and self._room.wanted:
            self._held[trial] = result
            self._room.gives_way(name)
            return str(TrialScheduler.PAUSE)
        self._tell_held(tune_controller)
        decision = str(self._inner.on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP:
            self._say_stopped(name)
        elif decision == TrialScheduler.PAUSE or trial.status == Trial.PAUSED:
            self._room.gives_way(name)
        return decision

    def _tell_held(self, tune_controller: Any) -> None:
        held, self._held = self._held, {}
        for trial, result in held.items():
            decision = self._inner.on_trial_result(tune_controller, trial, result)
            if decision == TrialScheduler.CONTINUE:
                self._ready.append(trial)
            elif decision == TrialScheduler.STOP:
                tune_controller.stop_trial(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Called by Tune when a trial has ended by itself."""
        self._ended.add(str(trial))
        if TOP1 in result:
            self._inner.on_trial_complete(tune_controller, trial, result)
        else:  # it has nothing to be compared by; others that wait for it need not
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Called by Tune when a trial that does not run is ended: a paused one that others have left behind."""
        if str(trial) not in self._ended and self._curves[str(trial)]:
            self._say_stopped(str(trial))
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Called by Tune to ask what starts or continues now."""
        chosen = self._choose(tune_controller)
        if chosen is None and self._gathers_at < math.inf and not self._room.wanted:
            trials = tune_controller.get_trials()
            if not any(trial.status in (Trial.RUNNING, Trial.PENDING) for trial in trials):
                # Whom the others waited for has ended instead of reporting.
                self._tell_held(tune_controller)
                paused = (trial for trial in trials if trial.status == Trial.PAUSED)
                chosen = self._choose(tune_controller) or next(paused, None)
        if chosen is not None and chosen.status == Trial.PAUSED and not self._room.go_on(str(chosen)):
            return None
        return chosen

    def _choose(self, tune_controller: Any) -> Trial | None:
        self._ready = [trial for trial in self._ready if trial.status == Trial.PAUSED]
        found: Trial | None = self._ready[0] if self._ready else self._inner.choose_trial_to_run(tune_controller)
        return found

    def debug_string(self) -> str:
        """What Tune's own tables say of the scheduler."""
        return str(self._inner.debug_string())

    def _say_stopped(self, name: str) -> None:
        self._ended.add(name)
        self._room.stopped(name, reason(self._scheduling, self._curves, name))


class _Replayed:
    """Stands in for a trial of an earlier job. Tune's schedulers ask for no more than its id."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def rungs(scheduling: Scheduling) -> list[float]:
    """At which percent of their steps asha compares trials, ascending."""
    rung, found = _ALL * scheduling.min_share, []
    while rung <= _ALL:
        found.append(rung)
        rung *= scheduling.reduction
    return found


def reason(scheduling: Scheduling, curves: Mapping[str, list[Point]], name: str) -> str:
    """Why a trial was stopped, in one line: where it stood, its rank there, and what it would have needed.

    Args:
        scheduling: by which rules.
        curves: of all trials so far, by their names.
        name: of the trial, whose latest point was the decisive one.
    """
    percent, top1 = curves[name][-1]
    where, at = f"at {percent:.0f}% of its steps", percent
    if scheduling.name == "asha":
        passed = [rung for rung in rungs(scheduling) if rung <= percent]
        at = passed[-1] if passed else percent
        where = f"at rung {len(passed)} of {len(rungs(scheduling))}, {at:.0f}% of its steps"
    others = [value for other, curve in curves.items() if other != name and (value := value_at(curve, at)) is not None]
    rank = 1 + sum(value > top1 for value in others)
    line = f"{scheduling.name}: {where} its top-1 of {top1:.4f} was rank {rank} of {len(others) + 1}"
    if scheduling.name == "median" and others:
        means = [np.mean([p.top1 for p in c if p.percent <= at]) for o, c in curves.items() if o != name and c]
        return f"{line}; the median of the others' means was {np.median(means):.4f}"
    if scheduling.name in ("asha", "hyperband") and others:
        needed = float(np.percentile(others, 100 * (1 - 1 / scheduling.reduction)))
        return f"{line}; to go on it took {needed:.4f}"
    return line


def value_at(curve: Iterable[Point], percent: float) -> float | None:
    """The top-1 of the first report at or after so many percent; None if there is none yet."""
    return next((point.top1 for point in curve if point.percent >= percent), None)
