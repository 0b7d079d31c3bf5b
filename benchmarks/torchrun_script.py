"""What a trial is measured against: the training script that one writes by hand, with neither Ray nor MLflow.

`torchrun --nproc-per-node W -m effnet_cluster.benchmarks.torchrun_script TASK.json` trains the model, data and recipe
of a trial with DDP; evaluates and saves a checkpoint after every epoch; and prints one line of JSON per epoch (rank 0).
The loop, the optimizer and the schedule are its own; the network and the loaders are this package's.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..datasets import EvalLoader, TrainLoader, open_dataset
from ..effnet import EfficientNet, EfficientNetConfig


@dataclass(frozen=True)
class Task:
    """What is trained. `data` is a data set's folder or `digits`, `cache` where the latter is; sizes are in pixels;
    `model` is `EfficientNetConfig.to_dict()`; `checkpoint` is the file to write; `device` is `cpu` or `cuda`."""

    data: str
    cache: str
    checkpoint: str
    device: str
    model: dict[str, Any]
    seed: int
    epochs: int
    global_batch: int
    image_size: int
    eval_resize: int
    min_crop: float
    shuffle_block: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    label_smoothing: float
    amp: bool

    def to_json(self) -> str:
        """The content of the script's file."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Epoch:
    """A line of the script's output.

    Attributes:
        first_step: seconds since 1970 when the first step of this process had ended.
        seconds: from the first batch asked for to the last optimizer step.
        wait_share: part of `seconds` that rank 0 waited for batches.
        ended: seconds since 1970 when the epoch had been trained, evaluated and saved.
        loss: mean training loss of rank 0, in nats.
        top1: on the validation split.
        threads: torch's, within one operation.
    """

    first_step: float
    seconds: float
    wait_share: float
    ended: float
    loss: float
    top1: float
    threads: int


class Normalised(nn.Module):
    """A network behind ImageNet's channel statistics: uint8 (N, 3, H, W) → logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise and classify."""
        logits: Tensor = self.network((images.float() - self.mean) / self.std)
        return logits


def main(path: str) -> None:
    """Train the task in the file at `path` as one of torchrun's ranks."""
    task = Task(**json.loads(Path(path).read_text()))
    dist.init_process_group("nccl" if task.device == "cuda" else "gloo")
    try:
        _train(task, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _train(task: Task, rank: int, world_size: int) -> None:
    device = torch.device(task.device, int(os.environ["LOCAL_RANK"])) if task.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    manifest = open_dataset(task.data, Path(task.cache), typed=False)
    shared: dict[str, Any] = {"rank": rank, "world_size": world_size, "image_size": task.image_size}
    shared["pin_memory"] = device.type == "cuda"
    batches = TrainLoader(
        manifest,
        global_batch=task.global_batch,
        seed=task.seed,
        shuffle_block=task.shuffle_block,
        crop_scale=(task.min_crop, 1.0),
        **shared,
    )
    images = EvalLoader(manifest, resize=task.eval_resize, batch_size=2 * task.global_batch // world_size, **shared)

    torch.manual_seed(task.seed)
    network = EfficientNet(EfficientNetConfig.from_dict(task.model)).to(device).to(memory_format=torch.channels_last)
    nn.init.normal_(network.classifier.weight, std=0.01)
    nn.init.zeros_(network.classifier.bias)
    torch.manual_seed(task.seed + 1 + rank)  # of dropout
    model = Normalised(network).to(device)
    ddp = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": task.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=task.lr, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(task, batches.sequence.batches_in(0)))
    criterion = nn.CrossEntropyLoss(label_smoothing=task.label_smoothing)
    amp = torch.autocast(device.type, torch.bfloat16, enabled=task.amp and device.type == "cuda")

    first_step = 0.0
    for epoch in range(task.epochs):
        ddp.train()  # type: ignore[no-untyped-call]
        total = torch.zeros((), device=device)
        waited = 0.0
        started = before = time.perf_counter()
        for batch in batches.epoch(epoch):
            waited += time.perf_counter() - before
            inputs = batch.images.to(device, non_blocking=True, memory_format=torch.channels_last)
            labels = batch.labels.to(device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            with amp:
                loss = criterion(ddp(inputs), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            first_step = first_step or time.time()
            total += loss.detach()
            before = time.perf_counter()
        mean = total.item() / batches.sequence.batches_in(epoch)
        seconds = time.perf_counter() - started
        top1 = _evaluate(model, images, device, amp)
        if rank == 0:
            torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, task.checkpoint)
            line = Epoch(first_step, seconds, waited / seconds, time.time(), mean, top1, torch.get_num_threads())
            print(json.dumps(asdict(line)), flush=True)


def _schedule(task: Task, steps: int) -> Callable[[int], float]:
    """Linear warm-up and half a cosine: step → factor of the peak learning rate."""
    total = task.epochs * steps
    warmup = min(round(task.warmup_epochs * steps), total - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    return factor


@torch.inference_mode()
def _evaluate(model: nn.Module, loader: EvalLoader, device: torch.device, amp: torch.autocast) -> float:
    """Top-1 over the ranks' shares."""
    model.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for batch in loader:
        images, labels, mask = (t.to(device, non_blocking=True) for t in (batch.images, batch.labels, batch.mask))
        with amp:
            right = (model(images).argmax(1) == labels) & mask
        counts += torch.stack([right.sum(), mask.sum()])
    dist.all_reduce(counts)
    return (counts[0] / counts[1]).item()


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    # Not through the interpreter's end: gloo's threads outlive the process group, and one that then still frees the
    # tensors of the last collective aborts the process (https://github.com/pytorch/pytorch/pull/179291).
    os._exit(0)
