"""What runs in a Ray Train worker: it joins the others, and trains with Ray's and MLflow's ends of the trainer.

Torch is imported inside the functions, so that the trial's process, which only names them, need not load it.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from ...datasets import socket_folder

_COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # torch's own: one rank may have an evaluation or a checkpoint to do
Worker = Callable[[dict[str, Any]], None]
"""What a worker runs; see `train_worker`."""
_RANKS = "/effnet-ranks-12345678/store"


def train_worker(config: dict[str, Any]) -> None:
    """Train one rank.

    Args:
        config: `job`, a `TrainingJob`; `sink`, its `Sink`; `node_metrics`, its `NodeMetrics`; `is_preempted`, a
            function that says whether Ray announced that a node of the group will go, called on all ranks at the same
            steps.
    """
    import ray.train
    import ray.train.torch
    import torch

    from ..logs import configure_logging
    from ..training.preemption import asked_to_leave
    from ..training.trainer import Trainer
    from ..training.world import World

    job, is_preempted = config["job"], config["is_preempted"]
    configure_logging(job.trial.trial_id)
    # Ray says so by OMP_NUM_THREADS, which a forked process has read too early.
    torch.set_num_threads(job.execution.cpus_per_worker or torch.get_num_threads())
    context = ray.train.get_context()
    world = World(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_world_size(),
        ray.train.torch.get_device(),
    )
    trainer = Trainer(
        job,
        world,
        config["sink"],
        report=ray.train.report,
        # Both are asked, whatever the first says: the second may be a barrier.
        should_stop=lambda: any([asked_to_leave(), is_preempted()]),
    )
    with config["node_metrics"].logged():
        trainer.run()


def is_preempted() -> bool:
    """Whether Ray announced that a node of this group will go. A barrier over the ranks."""
    import ray.train

    return ray.train.get_preemption_info() is not None


def node_id() -> str:
    """Which of Ray's nodes this worker is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def rendezvous_address(one_node: bool) -> str:
    """Where the ranks of a group can meet: a file that only this user can open, or a port if they are on several nodes.

    Torch's store at a port listens on all of the node's addresses, and whoever can reach it may write to it.
    """
    import ray.util

    if one_node:
        # Torch takes the path out of this address as it is; `?` or `#` in a folder's name would end it.
        return f"file://{tempfile.mkdtemp(prefix='effnet-ranks-', dir=socket_folder(len(_RANKS)))}/store"
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

    from ..training.preemption import listen

    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if address.startswith("file:"):
        loopback = _loopback_interface()
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, loopback)
    dist.init_process_group(
        backend,
        init_method=address,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=_COLLECTIVE_TIMEOUT,
    )
    listen()


def leave_process_group(address: str) -> None:
    """End this worker's part in the default process group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    if address.startswith("file:"):  # each rank does this, as any of them may be lost
        shutil.rmtree(Path(address.removeprefix("file://")).parent, ignore_errors=True)


def _loopback_interface() -> str:
    """The name of the interface for connections within this machine, such as `lo`."""
    return next(
        name for name, found in psutil.net_if_addrs().items() if any(one.address == "127.0.0.1" for one in found)
    )


def ask_to_leave() -> None:
    """Ask this worker to save and leave, as SIGTERM does."""
    from ..training import preemption

    preemption.ask_to_leave()
