"""One of several ranks that share a device, over gloo, as NCCL refuses that: `torchrun -m …gpu.rank JOB DEVICE`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ...orchestration.training.file_sink import FileSink
from ...orchestration.training.job import TrainingJob
from ...orchestration.training.trainer import Trainer
from ...orchestration.training.world import World

if __name__ == "__main__":
    file, device = sys.argv[1:]
    job = TrainingJob.model_validate_json(Path(file).read_bytes())
    dist.init_process_group("gloo")
    if device != "cpu":
        torch.cuda.set_device(device)
    rank, size = dist.get_rank(), dist.get_world_size()
    Trainer(job, World(rank, size, size, torch.device(device)), FileSink(Path(job.storage))).run()
    dist.destroy_process_group()
