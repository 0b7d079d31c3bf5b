"""Small trainings for tests: a few dozen handwritten digits, a tiny network, and a sink that remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from effnet_cluster.datasets import Manifest, prepare
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.collectives import lone_rank
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.metrics import StepPoint
from effnet_cluster.orchestration.training.trainer import Trainer
from effnet_cluster.orchestration.training.world import World

CLASSES, TRAIN, VAL = 3, 50, 21
BATCH = 12
STEPS = TRAIN // BATCH
ALONE = World(0, 1, 1, torch.device("cpu"))


def few_digits(root: Path) -> Manifest:
    """Handwritten digits of three classes, 32 px; 50 to train, of which two fill no batch."""
    digits = load_digits()
    for number in range(CLASSES):
        images = digits.images[digits.target == number]
        for count, image in enumerate(images[: (TRAIN + VAL) // CLASSES + 1]):
            split = "train" if count * CLASSES + number < TRAIN else "val"
            folder = root / "images" / split / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype(np.uint8)).resize((32, 32)).save(folder / f"{count}.png")
    return prepare(root / "images", root / "shards", name="few", samples_per_shard=16)


def make_job(
    manifest: Manifest,
    storage: Path,
    *,
    variant: str = "b0-w0.25-d0.25",
    execution: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> TrainingJob:
    """A job of a tiny B0, or another variant; what `recipe` does not name is the basic recipe's, over two epochs."""
    fields = {"epochs": 2, "global_batch": BATCH, "lr": 1e-3, **recipe}
    spec = ExperimentSpec.parse(
        {"name": "x", "variants": variant, "recipe": fields, "execution": dict(execution or {})}
    )
    plan = make_plan(spec, manifest)
    return TrainingJob(
        trial=plan.trials[0],
        execution=spec.execution,
        data=str(manifest.location),
        data_digest=manifest.digest,
        storage=str(storage),
        cache_root=str(storage),
    )


@dataclass
class Memory:
    """A sink that remembers, and fails where it gets a step or an epoch's metric twice."""

    steps: dict[int, StepPoint] = field(default_factory=dict)
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    restored: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False

    def restore(self, unsent: Sequence[dict[str, Any]]) -> None:
        self.restored = list(unsent)

    def unsent(self) -> list[dict[str, Any]]:
        return self.waiting

    def close(self) -> None:
        self.closed = True

    def log_steps(self, points: Sequence[StepPoint]) -> None:
        for point in points:
            assert self.steps.get(point.step, point) == point, "another value at a step"
            self.steps[point.step] = point

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.setdefault(epoch, {}).update(metrics)

    def log_text(self, name: str, text: str) -> None:
        self.texts[name] = text


def stop_at(ask: int) -> Callable[[], bool]:
    """Says yes from the given ask on, counted from 0; a lone rank is asked before each step."""
    asked = -1

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= ask

    return should_stop


def train(job: TrainingJob, sink: Memory | None = None, **named: Any) -> Trainer:
    """Run a job alone, to its end or to what it raises."""
    with lone_rank():
        trainer = Trainer(job, ALONE, sink or Memory(), **named)
        trainer.run()
    return trainer


def final_state(job: TrainingJob) -> dict[str, Any]:
    """The content of the job's last checkpoint."""
    last = sorted(Path(job.storage, "checkpoints").glob("*.pt"))[-1]
    state: dict[str, Any] = torch.load(last, weights_only=True)
    return state
