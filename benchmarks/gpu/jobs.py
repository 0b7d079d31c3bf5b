"""Training jobs for the checks, without an engine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...datasets import open_dataset
from ...orchestration.plan import make_plan
from ...orchestration.spec import ExperimentSpec
from ...orchestration.training.checkpoint import decode
from ...orchestration.training.checkpoint_store import CheckpointStore
from ...orchestration.training.errors import PreemptedError
from ...orchestration.training.file_sink import FILE, FileSink
from ...orchestration.training.job import TrainingJob
from ...orchestration.training.trainer import Trainer
from ...orchestration.training.world import World
from .target import Target

SMALL_NETWORK = "b0-w0.5-d0.5"


def make_job(
    target: Target,
    name: str,
    recipe: Mapping[str, Any],
    *,
    variant: str = SMALL_NETWORK,
    image_size: int = 32,
    data: str = "digits",
    **execution: Any,
) -> TrainingJob:
    """A job whose results go to the folder `name`; `recipe` and `execution` are fields, by default those of `basic`."""
    where = {"device": "gpu" if target.is_cuda else "cpu", "loader_workers": 2 if target.is_cuda else 0}
    spec = ExperimentSpec.parse(
        {
            "name": name,
            "data": data,
            "variants": variant,
            "image_size": image_size,
            "recipe": dict(recipe),
            "execution": where | execution,
        }
    )
    cache = target.folder / "cache"
    plan = make_plan(spec, open_dataset(data, cache))
    return TrainingJob(
        trial=plan.trials[0],
        execution=spec.execution,
        data=data,
        data_digest=plan.data_digest,
        storage=str(target.folder / name),
        cache_root=str(cache),
    )


def train(job: TrainingJob, device: torch.device, should_stop: Callable[[], bool] = lambda: False) -> Trainer:
    """Train the job as the only rank; the default process group must be up. Leaves quietly if asked to stop.

    Raises:
        NonFiniteLossError, UserError, DataError: see `Trainer`.
    """
    trainer = Trainer(job, World(0, 1, 1, device), FileSink(Path(job.storage)), should_stop=should_stop)
    with contextlib.suppress(PreemptedError):
        trainer.run()
    return trainer


def saved_state(job: TrainingJob) -> dict[str, Any]:
    """The content of the job's latest checkpoint, on the CPU."""
    store = CheckpointStore(job.storage)
    name = store.names()[-1]
    return decode(store.read(name), name, torch.device("cpu"))


def epoch_metrics(job: TrainingJob) -> list[dict[str, float]]:
    """The metrics of each epoch that was trained, the first first."""
    rows = map(json.loads, Path(job.storage, FILE).read_text().splitlines())
    by_epoch: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["kind"] == "epoch":
            by_epoch.setdefault(row["number"], {}).update(row)
    return [by_epoch[number] for number in sorted(by_epoch)]
