"""Runs as a script: two gloo ranks train a step compiled and not, and rank 0 writes what came of it.

`python compiled.py OUT`. Float64, so that what the compiler reorders stays far below what a mistake would do.
"""

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.effnet.stages import StageConfig
from effnet_cluster.orchestration.training.classifier import NormalizedModel
from effnet_cluster.orchestration.training.data_parallel import data_parallel

RANKS = 2
CONFIG = variant(
    "b0",
    num_classes=5,
    width=0.5,
    dropout=0.0,
    stochastic_depth=0.0,
    stages=(
        StageConfig(expand=1, kernel=3, stride=1, channels=16, repeats=1),
        StageConfig(expand=2, kernel=5, stride=2, channels=16, repeats=2),
    ),
)


def one_step(rank: int, *, compiled: bool = False, checkpointed: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """Gradients, and the bare network's state dict, in the order and wrapping of the training loop."""
    torch.manual_seed(0)
    network = EfficientNet(CONFIG, checkpoint_activations=checkpointed).double()
    model = NormalizedModel(network).double()
    if compiled:
        model.compile()
    ddp = data_parallel(model, torch.device("cpu")).train()
    random = torch.Generator().manual_seed(rank)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 5, (4,), generator=random)
    F.cross_entropy(ddp(images.double()), labels).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return {"gradients": gradients, "state": network.state_dict()}


def main(rank: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{out}/meeting", rank=rank, world_size=RANKS)
    # Both at once: what either does wrong alone, it does here too, and compiling takes half a minute.
    results = {"eager": one_step(rank), "compiled": one_step(rank, compiled=True, checkpointed=True)}
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    if rank == 0:
        torch.save({"results": results, "graphs": graphs}, f"{out}/rank0.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(main, args=(sys.argv[1],), nprocs=RANKS, start_method="fork")
