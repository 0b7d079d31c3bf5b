"""What two gloo ranks saw of trainings that go wrong on one of them, written to OUT/{scenario}-{rank}.pt.

Run as a program with the data set's folder and OUT. Every scenario has its own group, whose collectives end after a
minute: a rank that waits for one that has left fails its scenario and does not hang the tests.
"""

from __future__ import annotations

import copy
import itertools
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.training import trainer as trainer_module
from effnet_cluster.orchestration.training.collectives import average_buffers
from effnet_cluster.orchestration.training.trainer import Trainer
from effnet_cluster.orchestration.training.world import World
from tests.orchestration.trainings import BATCH, Memory, make_job, stop_at

CPU = torch.device("cpu")
WORLD = 2
# An epoch has four batches; losses are looked at after every second one.
POINTS, BAD_BATCH, EPOCHS = 2, 2, 2


class Untouched(Memory):
    """The sink of a rank that must not use it."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("log_") or name in ("close", "restore"):
            raise AssertionError(f"a rank other than 0 uses its sink's {name}")
        return super().__getattribute__(name)


class Slow(Memory):
    """The sink of rank 0, which takes its time for the last words."""

    closed_at = 0.0

    def close(self) -> None:
        time.sleep(0.3)
        self.closed_at = time.monotonic()


def trainer_of(rank: int, data: Path, storage: Path, **recipe: Any) -> Trainer:
    job = make_job(Manifest.load(data), storage, epochs=EPOCHS, **recipe)
    return Trainer(job, World(rank, WORLD, WORLD, CPU), Slow() if rank == 0 else Untouched())


def ending(trainer: Trainer) -> dict[str, Any]:
    """How a training ends: the error, when by this machine's clock, and what its sink got."""
    try:
        trainer.run()
    except Exception as error:
        kind, message = type(error).__name__, str(error)
    else:
        kind, message = "", ""
    sink = trainer._sink
    assert isinstance(sink, Memory)
    times = {"ended": time.monotonic(), "closed": sink.closed_at if isinstance(sink, Slow) else 0.0}
    return {"kind": kind, "message": message, "texts": sink.texts, "epochs": list(sink.epochs), **times}


def nothing(rank: int, data: Path, storage: Path) -> Any:
    return ending(trainer_of(rank, data, storage, ema=0.9))


def spoil_loss(trainer: Trainer, micro_batch: int) -> None:
    """Make the loss of one micro-batch of `BAD_BATCH` NaN, and with it that batch's gradients on all ranks."""
    loss, calls = trainer.parts.take_step.loss, itertools.count()
    bad = BAD_BATCH * (BATCH // WORLD // trainer.parts.micro_batch) + micro_batch

    def spoiled(output: Tensor, target: Tensor) -> Tensor:
        value: Tensor = loss(output, target)
        return value * float("nan") if next(calls) == bad else value

    trainer.parts.take_step.loss = spoiled  # type: ignore[assignment]


def bad_loss(rank: int, data: Path, storage: Path) -> Any:
    trainer = trainer_of(rank, data, storage)
    if rank == 1:
        spoil_loss(trainer, 0)
    return ending(trainer)


def bad_micro_batch(rank: int, data: Path, storage: Path) -> Any:
    trainer = trainer_of(rank, data, storage, micro_batch=2)
    if rank == 1:
        spoil_loss(trainer, 1)
    return ending(trainer)


def asked_to_leave(rank: int, data: Path, storage: Path) -> Any:
    trainer = trainer_of(rank, data, storage)
    if rank == 1:
        trainer._should_stop = stop_at(0)
    return ending(trainer)


def missed(owner: Any, method: str, call: int) -> None:
    """Let one call of a method do nothing."""
    wrapped, calls = getattr(owner, method), itertools.count()
    setattr(owner, method, lambda *given: None if next(calls) == call else wrapped(*given))


def missed_step(rank: int, data: Path, storage: Path) -> Any:
    trainer = trainer_of(rank, data, storage, ema=0.9)
    if rank == 1:
        missed(trainer.parts.take_step.optimizer, "step", 2)
    return ending(trainer)


def missed_update_of_the_average(rank: int, data: Path, storage: Path) -> Any:
    trainer = trainer_of(rank, data, storage, ema=0.9)
    if rank == 1:
        missed(trainer.parts.ema, "update", 2)
    return ending(trainer)


def missed_statistics_of_the_average(rank: int, data: Path, storage: Path) -> Any:
    """Rank 1 sends its statistics, and keeps its own of the averaged network."""
    trainer = trainer_of(rank, data, storage, ema=0.9)
    assert trainer.parts.ema

    def keeping_own(network: nn.Module) -> None:
        average_buffers(copy.deepcopy(network) if network is average else network)

    average = trainer.parts.ema.network
    with patch.object(trainer_module, "average_buffers", keeping_own if rank == 1 else average_buffers):
        return ending(trainer)


SCENARIOS: tuple[Callable[[int, Path, Path], Any], ...] = (
    nothing,
    bad_loss,
    bad_micro_batch,
    asked_to_leave,
    missed_step,
    missed_update_of_the_average,
    missed_statistics_of_the_average,
)


def main(rank: int, data: str, out: str) -> None:
    torch.set_num_threads(1)
    for scenario in SCENARIOS:
        name = scenario.__name__
        meeting = f"file://{out}/meeting-{name}"
        dist.init_process_group("gloo", meeting, timeout=timedelta(seconds=60), rank=rank, world_size=WORLD)
        with patch.object(trainer_module, "_STEP_POINTS", POINTS):
            torch.save(scenario(rank, Path(data), Path(out, name)), f"{out}/{name}-{rank}.pt")
        dist.destroy_process_group()


if __name__ == "__main__":
    # Nothing has run in torch yet, so that forking it is safe.
    mp.start_processes(main, args=(sys.argv[1], sys.argv[2]), nprocs=WORLD, start_method="fork")
