"""Trains a job without any engine, as one of torchrun's ranks or alone.

`torchrun --nproc-per-node 2 -m effnet_cluster.orchestration.training JOB.json`, for debugging and for a machine without
Ray. A trial leaves its `job.json` beside its checkpoints; metrics, texts and checkpoints go to the job's storage.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ...datasets import EffnetClusterError, one_line
from ..errors import UserError
from ..logs import configure_logging
from .collectives import lone_rank
from .errors import PreemptedError
from .file_sink import FileSink
from .job import TrainingJob
from .preemption import asked_to_leave, listen
from .trainer import Trainer
from .world import World

_log = logging.getLogger(f"{__package__}.main")  # its __name__ is `__main__`


def make_parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(prog="python -m effnet_cluster.orchestration.training", description=__doc__)
    parser.add_argument("job", type=Path, help="JSON of a training job, such as a trial's job.json")
    parser.add_argument("--storage", help="folder for checkpoints and metrics [default: the job's]")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: trained to the end; 1: asked to leave, and saved; 2: the job cannot run."""
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    try:
        return _train(_read(parsed.job, parsed.storage))
    except EffnetClusterError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


def _read(file: Path, storage: str | None) -> TrainingJob:
    try:
        job = TrainingJob.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no training job: {one_line(error)}") from None
    return job.model_copy(update={"storage": str(Path(storage).absolute())}) if storage else job


def _train(job: TrainingJob) -> int:
    configure_logging(job.trial.trial_id)
    listen()
    torch.set_num_threads(job.execution.cpus_per_worker or torch.get_num_threads())
    if "RANK" not in os.environ:
        with lone_rank():
            return _run(job, World(0, 1, 1, _device(job, 0)))
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    device = _device(job, local_rank)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        return _run(job, World(rank, size, local_size, device))
    finally:
        dist.destroy_process_group()


def _device(job: TrainingJob, local_rank: int) -> torch.device:
    if job.execution.device == "cpu" or (job.execution.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _run(job: TrainingJob, world: World) -> int:
    try:
        trainer = Trainer(job, world, FileSink(Path(job.storage)), should_stop=asked_to_leave)
        trainer.run()
    except PreemptedError:
        return 1
    if world.rank == 0:
        best = trainer.progress.best_top1
        _log.info("best val top-1 %.4f; `effnet-cluster predict` and `export` take the checkpoints as --model", best)
    return 0


if __name__ == "__main__":
    sys.exit(main())
