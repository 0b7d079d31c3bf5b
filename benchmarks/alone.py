"""Our trainer in one process on the CPU, without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..orchestration.training.collectives import lone_rank
from ..orchestration.training.file_sink import FileSink
from ..orchestration.training.job import TrainingJob
from ..orchestration.training.trainer import Trainer
from ..orchestration.training.world import World


def train_alone(job: TrainingJob, **callbacks: Any) -> None:
    """Train a job whose storage is a folder, to which its metrics go, too.

    Args:
        job: what to train.
        callbacks: `report` and `should_stop`, see `Trainer`.
    """
    with lone_rank():
        Trainer(job, World(0, 1, 1, torch.device("cpu")), FileSink(Path(job.storage)), **callbacks).run()
