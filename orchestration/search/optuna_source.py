"""Trials that Optuna makes up as results come in: a tree-structured Parzen estimator (TPE), of one or more objectives.

What was asked for and what came of it is a file in the experiment's storage. Each question is a pure function of that
file, so that a killed driver's successor goes on with the trials that there would have been.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..errors import UserError
from ..training.job import TrialPlan
from ..training.storage import Storage
from .domains import Choice, Domain, Span
from .section import MAXIMIZED, Search
from .space import Configuration, Network, Space

STATE_FILE = "search/trials.jsonl"
"""A line per trial that was asked for, in that order, in the experiment's storage."""

# How a trial can have ended for good; of any other end it is tried again by the next driver.
_COMPLETED, _STOPPED = "completed", "stopped"
# How often the estimator is asked anew for a configuration that nobody has tried; then one is drawn.
_ATTEMPTS = 16
# Trials at random before the estimator has anything to go by: a quarter of them, within limits.
_FEWEST_RANDOM, _MOST_RANDOM = 4, 10
# Into how many steps a stopped trial's training is divided, for the estimator prefers those that came further.
_STEPS = 1000


@dataclass
class _Asked:
    """A line of the state file. `outcome` is None as long as the trial has not ended."""

    configuration: Configuration
    outcome: str | None = None
    values: Mapping[str, float] | None = None


class OptunaSource:
    """A `TrialSource` whose trials depend on the results so far.

    Args:
        space: what can be tried.
        search: how many trials, and what is optimized.
        seed: of the search.
        trial_of: plans the trial of a configuration, always in the same way.
        storage: the experiment's. What a former driver has asked for and not finished comes first.
        finished: the trials that have ended, by their own runs. A former driver may have noted here that a trial is to
            be stopped, and been lost before that was done. None: what is noted here holds.

    Raises:
        UserError: the state in the storage cannot be read.
    """

    def __init__(
        self,
        space: Space,
        search: Search,
        seed: int,
        trial_of: Callable[[Configuration], TrialPlan],
        storage: Storage,
        finished: Collection[str] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._objectives, self._seed = space, search.objectives, seed
        self._trial_of, self._storage = trial_of, storage
        self._budget = search.trials or 0
        self._asked: dict[str, _Asked] = {}
        self._left: dict[str, TrialPlan] = {}
        for asked in self._read():
            trial = trial_of(asked.configuration)
            lost = finished is not None and trial.trial_id not in finished
            if lost or asked.outcome not in (_COMPLETED, _STOPPED):
                asked.outcome = asked.values = None
                self._left[trial.trial_id] = trial
            self._asked[trial.trial_id] = asked

    def waiting(self) -> Sequence[TrialPlan]:
        """See `TrialSource`. Where none is left, one is made up: the later, the more results it takes into account."""
        if not self._left and len(self._asked) < self._budget:
            configuration = self._ask()
            if configuration is None:
                self._budget = len(self._asked)
                return ()
            trial = self._trial_of(configuration)
            self._asked[trial.trial_id] = _Asked(configuration)
            self._write()  # before anybody hears of it
            self._left[trial.trial_id] = trial
        return tuple(self._left.values())

    def take(self, trial_id: str) -> None:
        """See `TrialSource`."""
        del self._left[trial_id]

    def ended(self, trial_id: str, outcome: str, values: Mapping[str, float] | None = None) -> None:
        """See `TrialSource`."""
        asked = self._asked[trial_id]
        if asked.outcome in (_COMPLETED, _STOPPED):
            return
        trial = self._trial_of(asked.configuration)
        # A former driver may have seen the trial's end and not have noted it.
        self._left.pop(trial_id, None)
        asked.outcome, asked.values = outcome, {"macs": trial.macs, "params": trial.params, **(values or {})}
        self._write()

    @property
    def exhausted(self) -> bool:
        """See `TrialSource`."""
        return not self._left and len(self._asked) >= self._budget

    def _ask(self) -> Configuration | None:
        """A configuration that was not tried; None if there is no other."""
        number = len(self._asked)
        used = {self._space.key(asked.configuration) for asked in self._asked.values()}
        study, distributions = self._study(), self._distributions()
        for attempt in range(_ATTEMPTS):
            study.sampler = self._sampler(f"{self._seed}:{number}:{attempt}")
            params = study.ask(distributions).params
            point = {
                name: domain.rounded(params[name]) if isinstance(domain, Span) else params[name]
                for name, domain in self._space.sweep.items()
            }
            found = self._space.unused(self._network(params), point, number, used)
            if found is not None:
                return found
        return next(self._space.draws(_hash(f"{self._seed}:{number}"), used), None)

    def _study(self) -> optuna.Study:
        """What was asked and told, as Optuna knows it."""
        towards = optuna.study.StudyDirection
        directions = [towards.MAXIMIZE if name in MAXIMIZED else towards.MINIMIZE for name in self._objectives]
        study = optuna.create_study(directions=directions)
        distributions = self._distributions()
        study.add_trials([self._told(asked, distributions) for asked in self._asked.values()])
        return study

    def _told(self, asked: _Asked, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
        params = {name: asked.configuration[name] for name in distributions}
        known: dict[str, Any] = {"params": params, "distributions": distributions}
        values = asked.values or {}
        if asked.outcome is None:
            return create_trial(state=TrialState.RUNNING, **known)
        if asked.outcome == _COMPLETED and all(name in values for name in self._objectives):
            return create_trial(values=[values[name] for name in self._objectives], **known)
        if asked.outcome == _STOPPED:
            # The estimator reads how good it was when it was stopped, of one objective.
            step = round(_STEPS * values.get("share", 0.0))
            reached = {step: values["top1"]} if "top1" in values and len(self._objectives) == 1 else {}
            return create_trial(state=TrialState.PRUNED, intermediate_values=reached, **known)
        return create_trial(state=TrialState.FAIL, **known)

    def _sampler(self, text: str) -> optuna.samplers.BaseSampler:
        random = min(_MOST_RANDOM, max(_FEWEST_RANDOM, self._budget // 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Running trials count as bad ones ("constant liar"), so that parallel ones do not crowd together.
            return optuna.samplers.TPESampler(
                n_startup_trials=random, multivariate=True, constant_liar=True, seed=_hash(text)
            )

    def _distributions(self) -> dict[str, BaseDistribution]:
        """Of all that can differ."""
        parts = zip(Network._fields, zip(*self._space.networks, strict=True), strict=True)
        choices = {name: tuple(dict.fromkeys(values)) for name, values in parts}
        networks = {name: CategoricalDistribution(values) for name, values in choices.items() if len(values) > 1}
        return {**networks, **{name: _distribution(domain) for name, domain in self._space.sweep.items()}}

    def _network(self, params: Mapping[str, Any]) -> Network:
        """The network of those parameters or, if that is none of the space, the first that differs least from it."""
        return max(
            self._space.networks,
            key=lambda network: [params.get(name, value) == value for name, value in network._asdict().items()],
        )

    def _read(self) -> list[_Asked]:
        try:
            lines = self._storage.read(STATE_FILE).decode().splitlines()
            return [_Asked(**json.loads(line)) for line in lines]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            where = self._storage.where(STATE_FILE)
            raise UserError(f"the search's state {where} is broken ({error}); delete it to search anew") from None

    def _write(self) -> None:
        lines = (json.dumps(vars(asked)) for asked in self._asked.values())
        self._storage.write(STATE_FILE, "\n".join(lines).encode())


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _hash(text: str) -> int:
    """A seed of 32 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
