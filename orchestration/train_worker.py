"""What runs in a Ray Train worker: it joins the others, and trains with Ray's and MLflow's ends of the trainer.

Torch is imported inside the functions, so that the trial's process, which only names them, need not load it.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

_COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # torch's own: one rank may have an evaluation or a checkpoint to do


def train_worker(config: dict[str, Any]) -> None:
    """Train one rank.

    Args:
        config: `job`, a `TrainingJob`; `sink`, its `Sink`; `is_preempted`, a function that says whether Ray announced
            that a node of the group will go, called on all ranks at the same steps.
    """
    import ray.train
    import ray.train.torch

    from .logs import configure_logging
    from .training.preemption import asked_to_leave
    from .training.trainer import Trainer
    from .training.world import World

    job, is_preempted = config["job"], config["is_preempted"]
    configure_logging(job.trial.trial_id)
    context = ray.train.get_context()
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_world_size(),
        ray.train.torch.get_device(),
    )
    Trainer(
        job,
        world,
        config["sink"],
        report=ray.train.report,
        # Both are asked, whatever the first says: the second may be a barrier.
        should_stop=lambda: any([asked_to_leave(), is_preempted()]),
    ).run()


def is_preempted() -> bool:
    """Whether Ray announced that a node of this group will go. A barrier over the ranks."""
    import ray.train

    return ray.train.get_preemption_info() is not None


def rendezvous_address() -> str:
    """An address of this node with a free port, where the ranks of a group can meet."""
    import ray.util

    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"tcp://[{host}]:{port}" if family == socket.AF_INET6 else f"tcp://{host}:{port}"


def join_process_group(backend: str, address: str) -> None:
    """Become a rank of the default process group, and listen for SIGTERM. Called in the worker's main thread."""
    import ray.train
    import ray.train.torch
    import torch
    import torch.distributed as dist

    from .training.preemption import listen

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        init_method=address,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=_COLLECTIVE_TIMEOUT,
    )
    listen()


def leave_process_group() -> None:
    """End this worker's part in the default process group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def ask_to_leave() -> None:
    """Ask this worker to save and leave, as SIGTERM does."""
    from .training import preemption

    preemption.ask_to_leave()
