"""What a probe has measured of a machine: networks' speeds on one worker, as values with one JSON form."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from .execution import Execution
from .job import TrialPlan

# Finished trials that are remembered, the latest.
_REMEMBERED = 50


class MeasuredNetwork(BaseModel):
    """A network's speed on one worker.

    Attributes:
        macs: multiply-adds per image.
        kind: what it has in common with networks of other sizes; see `kind_of`.
        images: of the batches that were tried, ascending, one or two sizes.
        seconds: of a training step of each.
        eval_seconds: per image, of evaluation.
        load_seconds: per image, of reading and decoding by one process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: int = Field(gt=0)
    kind: str
    images: tuple[int, ...] = Field(min_length=1)
    seconds: tuple[float, ...] = Field(min_length=1)
    eval_seconds: float
    load_seconds: float

    def step_seconds(self, images: int) -> float:
        """Of so many images, on the line through the measured ones."""
        most, seconds = self.images[-1], self.seconds[-1]
        # A line through noise may fall, or begin below zero; then it is the proportion.
        slope = seconds / most
        if self.images[0] < most:
            slope = min(max((seconds - self.seconds[0]) / (most - self.images[0]), 0.0), slope)
        return seconds + slope * (images - most)


class Measurement(BaseModel):
    """A probe of some hardware, and what finished trials on it have taught.

    Attributes:
        use_gpu: whether the worker had a GPU.
        cpus: the worker's threads.
        gpu_memory: bytes free on the GPU; None without one.
        networks: of the first one's kind at least the smallest and the largest of a sweep, of every other kind one.
        factors: actual to predicted seconds of the epochs of finished trials, the latest last.
        starts, ends: seconds before their first step, and after their last epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use_gpu: bool
    cpus: int = Field(ge=1)
    gpu_memory: int | None = None
    networks: tuple[MeasuredNetwork, ...] = ()
    factors: tuple[float, ...] = ()
    starts: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    def learn(self, factors: Iterable[float], starts: Iterable[float], ends: Iterable[float]) -> Measurement:
        """The same with what finished trials took; the factors are to the prediction before any correction."""
        update = {
            "factors": (*self.factors, *factors)[-_REMEMBERED:],
            "starts": (*self.starts, *starts)[-_REMEMBERED:],
            "ends": (*self.ends, *ends)[-_REMEMBERED:],
        }
        return self.model_copy(update=update)

    def missing(self, trials: Iterable[TrialPlan]) -> tuple[TrialPlan, ...]:
        """Those of a sweep's trials that have to be measured to predict them all; the base kind's come first."""
        ordered = sorted(trials, key=lambda trial: trial.macs)
        base = self.networks[0].kind if self.networks else kind_of(ordered[0])
        found = {network.macs for network in self.networks if network.kind == base}
        known = {network.kind for network in self.networks} | {base}
        family = [trial for trial in ordered if kind_of(trial) == base]
        wanted = []
        if family and (not found or family[0].macs < min(found)):
            wanted.append(family[0])
        if family and family[-1].macs > max((*found, family[0].macs)):
            wanted.append(family[-1])
        others = {kind_of(trial): trial for trial in reversed(ordered) if kind_of(trial) not in known}
        return (*wanted, *others.values())


class ProbeOrder(BaseModel):
    """What a probe measures: these trials, of these data, on one worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: tuple[TrialPlan, ...]
    execution: Execution
    data: str
    data_digest: str
    cache_root: str
    cpus: int
    use_gpu: bool


def kind_of(trial: TrialPlan) -> str:
    """A trial's activation, and its shortcuts where they are no plain ones: what changes its speed at a given size.

    Every baseline is a kind of its own.
    """
    return trial.model.kind
