"""Steps per second of our trials, with MLflow and checkpoints, against a plain torchrun script, in turns.

A round is one training by each: same network, data, order, recipe, ranks and threads; the first epoch warms up and is
not counted. Ours is what a user gets, from the submitted job to the logged model; Ray and MLflow run only while it
does, so that what they take from the machine counts against us alone. `effnet-cluster bench train` prints the table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from ..datasets import open_dataset
from ..orchestration.errors import EngineError
from ..orchestration.plan import make_plan
from ..orchestration.request import ExperimentRequest
from ..orchestration.spec import ExperimentSpec
from ..orchestration.tracking.runs import Tracker
from ..orchestration.training import metrics
from ..orchestration.training.job import TrialPlan
from .pairing import Progress, Ratio, rate, ratio, take_turns
from .torchrun_script import Epoch, Task

OURS, TORCHRUN = "effnet-cluster", "torchrun"
_NAMES = (OURS, TORCHRUN)
_WARM_UP = 1


class Platform(Protocol):
    """A running Ray cluster and MLflow server."""

    @property
    def tracking_uri(self) -> str:
        """The MLflow server's address."""

    def run(self, request: ExperimentRequest) -> None:
        """Run an experiment to its end. Raises `EngineError` if it does not complete."""


@dataclass(frozen=True)
class TrainBench:
    """What is trained.

    Attributes:
        variant: as `submit` takes it.
        workers: numbers of DDP ranks to measure.
        epochs: of each training; the first is not counted.
        rounds: trainings by each.
        cpus_per_worker: threads of a rank; None shares out all cores, also those that Ray and MLflow would need.
        image_size: edge in pixels.
        global_batch: images per step over all ranks.
        data: a data set's folder, or `digits`.
        device: `cpu` or `gpu`, one of these per rank.
    """

    variant: str = "b0"
    workers: tuple[int, ...] = (1, 2)
    epochs: int = 3
    rounds: int = 5
    cpus_per_worker: int | None = None
    image_size: int = 32
    global_batch: int = 32
    data: str = "digits"
    device: str = "cpu"


class Training(NamedTuple):
    """One training, without its first epoch: seconds of its steps, seconds of its epochs with evaluation and
    checkpoint, share of the steps' time that was waited for data, last training loss, torch's threads per rank."""

    step_seconds: float
    epoch_seconds: float
    wait_share: float
    loss: float
    threads: int


@dataclass(frozen=True)
class TrainBenchResult:
    """One row, by number of workers.

    Attributes:
        workers, threads: DDP ranks, and torch's threads on each.
        steps_per_second: by contestant, in its median round.
        steps: how many times as many steps per second ours does, without what is between two epochs.
        epochs: the same of whole epochs: with evaluation and checkpoint and, for ours, checks and MLflow.
        wait_shares: by contestant, the part of the steps' time that was waited for data; mean of the rounds.
        losses: by contestant, training loss of the last epoch; mean of the rounds. They differ by the draws of dropout.
    """

    workers: int
    threads: int
    steps_per_second: dict[str, float]
    steps: Ratio
    epochs: Ratio
    wait_shares: dict[str, float]
    losses: dict[str, float]


def measure(
    engines: Callable[[], AbstractContextManager[Platform]],
    settings: TrainBench | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Iterator[TrainBenchResult]:
    """Yield a result for every number of workers.

    Args:
        engines: starts Ray and MLflow for one training of ours and stops them after it.
        settings: what is trained.
        progress: told of every training.

    Raises:
        ValueError: fewer than two epochs, more workers than cores, or several variants.
        EngineError: a training failed, or the contestants had not the same number of threads.
        DataError, UserError: the data or the variant are not there.
    """
    settings = settings or TrainBench()
    cores = len(os.sched_getaffinity(0))
    if settings.epochs <= _WARM_UP:
        raise ValueError(f"epochs must be more than the {_WARM_UP} that is not counted")
    needed = max(settings.workers) * (settings.cpus_per_worker or 1)
    if needed > cores:
        raise ValueError(f"{max(settings.workers)} workers need {needed} cores, this machine has {cores}")
    with tempfile.TemporaryDirectory() as folder:
        for workers in settings.workers:
            threads = settings.cpus_per_worker or cores // workers
            yield _measure(engines, settings, workers, threads, Path(folder, str(workers)), progress)


def _measure(
    engines: Callable[[], AbstractContextManager[Platform]],
    settings: TrainBench,
    workers: int,
    threads: int,
    folder: Path,
    progress: Progress,
) -> TrainBenchResult:
    spec = ExperimentSpec.parse(
        {
            "name": "bench",
            "data": settings.data,
            "variants": settings.variant,
            "image_size": settings.image_size,
            "execution": {
                "workers": workers,
                "cpus_per_worker": threads,
                "device": settings.device,
                "loader_workers": 0,
            },
            "recipe": {
                "epochs": settings.epochs,
                "global_batch": settings.global_batch,
                "precision": "bfloat16" if settings.device == "gpu" else "float32",
            },
        }
    )
    cache = folder / "cache"
    plan = make_plan(spec, open_dataset(spec.data, cache))
    if len(plan.trials) != 1:
        raise ValueError(f"one variant at a time, not '{settings.variant}'")
    (trial,) = plan.trials
    trainings: dict[str, list[Training]] = {name: [] for name in _NAMES}

    def ours() -> None:
        number = len(trainings[OURS])
        named = spec.model_copy(update={"name": f"bench-{workers}-{number}"})
        renamed = plan.model_copy(update={"spec": named})
        with engines() as platform:
            request = ExperimentRequest(
                uid=uuid.uuid4().hex,
                job=named.name,
                plan=renamed,
                tracking_uri=platform.tracking_uri,
                storage=str(folder / named.name),
                cache_root=str(cache),
            )
            platform.run(request)
            trainings[OURS].append(read_training(Tracker(platform.tracking_uri, named.name, request.uid)))

    def theirs() -> None:
        task = task_of(trial, spec, cache, folder / "torchrun.pt")
        trainings[TORCHRUN].append(summarise(run_torchrun(task, workers, threads, folder)))

    def turns(done: int, total: int, what: str) -> None:
        progress(done, total, f"{workers} workers: {what}")

    take_turns({OURS: ours, TORCHRUN: theirs}, settings.rounds, warmup=0, progress=turns)
    odd = {run.threads for runs in trainings.values() for run in runs} - {threads}
    if odd:
        raise EngineError(f"a rank ran on {odd.pop()} threads instead of {threads}: the comparison would be unfair")
    counted = (settings.epochs - _WARM_UP) * trial.batches_per_epoch
    steps = {name: [run.step_seconds for run in trainings[name]] for name in _NAMES}
    epochs = {name: [run.epoch_seconds for run in trainings[name]] for name in _NAMES}
    return TrainBenchResult(
        workers,
        threads,
        {name: rate(counted, steps[name]) for name in _NAMES},
        ratio(steps[OURS], steps[TORCHRUN]),
        ratio(epochs[OURS], epochs[TORCHRUN]),
        {name: _mean([run.wait_share for run in trainings[name]]) for name in _NAMES},
        {name: _mean([run.loss for run in trainings[name]]) for name in _NAMES},
    )


def task_of(trial: TrialPlan, spec: ExperimentSpec, cache: Path, checkpoint: Path) -> Task:
    """The script's form of a trial whose recipe has no more than the script can do."""
    recipe = trial.recipe
    return Task(
        data=spec.data,
        cache=str(cache),
        checkpoint=str(checkpoint),
        device="cuda" if spec.execution.device == "gpu" else "cpu",
        model=trial.model.to_dict(),
        seed=trial.seed,
        epochs=recipe.epochs,
        global_batch=recipe.global_batch,
        image_size=trial.image_size,
        eval_resize=trial.eval_resize,
        min_crop=trial.min_crop,
        shuffle_block=trial.shuffle_block,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        warmup_epochs=recipe.warmup_epochs,
        label_smoothing=recipe.label_smoothing,
        amp=recipe.precision == "bfloat16",
    )


def run_torchrun(task: Task, workers: int, threads: int, folder: Path) -> list[Epoch]:
    """Train `task` under torchrun with `workers` ranks of `threads` threads; `folder` takes its files.

    Raises:
        EngineError: it failed.
    """
    file = folder / "task.json"
    file.write_text(task.to_json())
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)),
        *("-m", f"{__package__}.torchrun_script", str(file)),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        # A traceback ends with `Kind: what happened`; torchrun's own, after the ranks', says nothing more.
        said = re.findall(r"^(?:\[rank\d+\]: )?([\w.]+Error: .+)$", done.stderr, re.MULTILINE)
        raise EngineError(f"the torchrun script failed: {said[0] if said else done.stderr[-300:].strip()}")
    return [Epoch(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def summarise(epochs: Sequence[Epoch]) -> Training:
    """What counts of the script's epochs."""
    counted = epochs[_WARM_UP:]
    return Training(
        sum(epoch.seconds for epoch in counted),
        epochs[-1].ended - epochs[_WARM_UP - 1].ended,
        _mean([epoch.wait_share for epoch in counted]),
        epochs[-1].loss,
        epochs[-1].threads,
    )


def read_training(tracker: Tracker) -> Training:
    """The same of an experiment's only trial, from what it has logged to MLflow."""
    (record,) = tracker.trials()
    histories = {}
    for name in (metrics.EPOCH_SECONDS, metrics.DATA_WAIT_SHARE, metrics.EPOCH_LOSS, metrics.THREADS):
        points = tracker.history(record.run_id, name)
        if not points:
            raise EngineError(f"trial {record.trial_id} has not logged {name}")
        histories[name] = points
    seconds = histories[metrics.EPOCH_SECONDS]
    return Training(
        sum(point.value for point in seconds[_WARM_UP:]),
        seconds[-1].logged_at - seconds[_WARM_UP - 1].logged_at,
        _mean([point.value for point in histories[metrics.DATA_WAIT_SHARE][_WARM_UP:]]),
        histories[metrics.EPOCH_LOSS][-1].value,
        int(histories[metrics.THREADS][-1].value),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
