"""Runs as a script: real gloo process groups of 1, 2 and 3 ranks, and what each rank saw, as one file a rank.

`python ranks.py SHARDS OUT`. One interpreter pays torch's import; the ranks are its forks. Each scenario's result, or
what it raised, goes to OUT/WORLD-RANK.pt; the tests judge it.
"""

import logging
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from effnet_cluster.datasets import Batch, EvalLoader, Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.running.faults import classify
from effnet_cluster.orchestration.training import shared_average
from effnet_cluster.orchestration.training.checkpoint import TrainingProgress
from effnet_cluster.orchestration.training.classifier import NormalizedModel
from effnet_cluster.orchestration.training.collectives import (
    average_buffers,
    check_ranks_agree,
    evaluate,
    sum_over_ranks,
    true_on_all_ranks,
)
from effnet_cluster.orchestration.training.data_parallel import data_parallel
from effnet_cluster.orchestration.training.epoch_totals import EpochTotals
from effnet_cluster.orchestration.training.errors import RanksDisagreeError
from effnet_cluster.orchestration.training.micro_batch import probe
from effnet_cluster.orchestration.training.optimizers import make_optimizer
from effnet_cluster.orchestration.training.preemption import PreemptionConsensus
from effnet_cluster.orchestration.training.recipes import Recipe
from effnet_cluster.orchestration.training.shared_average import SharedAverage, average_in_shared_memory
from effnet_cluster.orchestration.training.train_step import TrainStep

WORLDS = (1, 2, 3)
EVAL_BATCHES = (25, 64)
CPU = torch.device("cpu")
BATCH = 24
MICRO_BATCHES = 4
# How gradients are averaged: as training does it, on one node, and by DDP alone.
WAYS = ("training", "gloo")
TALLY_STEPS, TALLY_INTERVAL, TALLY_BATCH = 7, 3, 6
STEP_RECIPE = Recipe(lr=0.01, weight_decay=0.1, label_smoothing=0.1)
WRAPPING = (2**63 - 1, 2**63 - 1, 2**62 + 5)


def small_model() -> nn.Module:
    """A random convolution with BatchNorm over uint8 images of any size, ten classes."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    return NormalizedModel(nn.Sequential(network, nn.Linear(32, 10)))


def step_model() -> nn.Module:
    """A small EfficientNet in float64 whose training step depends on nothing but its input."""
    torch.manual_seed(2)
    config = variant("b0", width=0.25, depth=0.3, num_classes=5, dropout=0.0, stochastic_depth=0.0)
    model = NormalizedModel(EfficientNet(config)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    return freeze_statistics(model)


def freeze_statistics(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def step_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 5, (BATCH,), generator=generator)


def take_step(model: nn.Module, bare: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = make_optimizer(bare, STEP_RECIPE, CPU)
    F.cross_entropy(model(images), labels, label_smoothing=STEP_RECIPE.label_smoothing).backward()
    optimizer.step()


def buffers_of(rank: int) -> torch.Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(50 + rank))


def averaging(rank: int, world: int) -> Any:
    model = small_model()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.copy_(buffers_of(rank))
    norm.num_batches_tracked.fill_(7)
    parameters = [p.detach().clone() for p in model.parameters()]
    average_buffers(model)
    untouched = all(torch.equal(a, b) for a, b in zip(parameters, model.parameters(), strict=True))
    return {"mean": norm.running_mean, "batches": norm.num_batches_tracked, "parameters_untouched": untouched}


def is_refused(model: nn.Module, average: nn.Module | None = None) -> bool:
    models = {"model": model} | ({"average": average} if average else {})
    try:
        check_ranks_agree(models, 4)
    except RanksDisagreeError as error:
        return f"after epoch 5 the {list(models)[-1]} of rank " in str(error)
    return False


def agreement(rank: int, world: int) -> Any:
    """Whether the check refuses: equal ranks, and ranks of which the last differs in one small way."""
    refused = {"equal": is_refused(small_model())}
    odd = rank == world - 1

    def differing(change: Callable[[list[torch.Tensor]], None]) -> bool:
        model = small_model()
        if odd:
            with torch.no_grad():
                change([p.data for p in model.parameters()])
        return is_refused(model)

    def flip(tensors: list[torch.Tensor], bit: int, tensor: int, place: int) -> None:
        tensors[tensor].view(-1).view(torch.int32)[place] ^= torch.tensor(1, dtype=torch.int32) << bit

    def swap(tensors: list[torch.Tensor]) -> None:
        flat = tensors[0].view(-1)
        flat[[3, 4]] = flat[[4, 3]]

    def swap_between(tensors: list[torch.Tensor]) -> None:
        first, last = tensors[0].view(-1), tensors[-1].view(-1)
        first[0], last[0] = last[0].clone(), first[0].clone()

    refused["lowest bit"] = differing(lambda t: flip(t, 0, 0, 0))
    refused["sign bit"] = differing(lambda t: flip(t, 31, -1, -1))
    refused["middle bit"] = differing(lambda t: flip(t, 17, 1, 5))
    refused["swapped"] = differing(swap)
    refused["swapped between tensors"] = differing(swap_between)
    model = small_model()
    if odd:
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.running_var is not None
        norm.running_var[2] = torch.nextafter(norm.running_var[2], torch.tensor(2.0))
    refused["a running variance"] = is_refused(model)
    refused["what is evaluated"] = is_refused(small_model(), model)
    model = small_model()
    if odd:
        norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked += 1
    refused["a count of batches"] = is_refused(model)
    refused["16 bits"] = is_refused(small_model().half().apply(nudge) if odd else small_model().half())
    return refused


def nudge(module: nn.Module) -> None:
    """Move the bias of a linear layer by the least that its format knows."""
    if isinstance(module, nn.Linear):
        with torch.no_grad():
            module.bias[0] = torch.nextafter(module.bias[0], module.bias[0] + 1)


def summing(rank: int, world: int) -> Any:
    return sum_over_ranks(torch.tensor([WRAPPING[rank], rank, -1], dtype=torch.int64))


def ddp_step(rank: int, world: int) -> Any:
    model = step_model()
    ddp = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)
    freeze_statistics(ddp)
    images, labels = step_batch()
    mine = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    take_step(ddp, model, images[mine], labels[mine])
    return model.state_dict()


def train_step(micro_batch: int, *, gloo: bool = False) -> tuple[nn.Module, TrainStep]:
    """The model, and a step that averages its gradients as training does or by plain DDP over gloo."""
    model = step_model()
    plain = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True) if gloo else None
    parallel = plain or data_parallel(model, CPU)
    freeze_statistics(parallel)
    step = TrainStep(
        parallel,
        make_optimizer(model, STEP_RECIPE, CPU),
        nn.CrossEntropyLoss(label_smoothing=STEP_RECIPE.label_smoothing),
        torch.autocast("cpu", enabled=False),
        torch.amp.GradScaler("cpu", enabled=False),
        micro_batch,
    )
    return model, step


def accumulating(rank: int, world: int) -> Any:
    """Both ways, a step whose gradients come from four micro-batches per rank."""
    share = BATCH // world
    images, labels = step_batch()
    mine = slice(rank * share, (rank + 1) * share)
    found = {}
    for way in WAYS:
        model, step = train_step(share // MICRO_BATCHES, gloo=way == "gloo")
        loss = step(images[mine], labels[mine])
        found[way] = {"loss": loss, "model": model.state_dict()}
    return found


def wrapping(rank: int, world: int) -> Any:
    """What training wraps the model in, and what it logs of that."""
    model, logged = small_model(), list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("effnet_cluster")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        parallel = data_parallel(model, CPU)
    finally:
        logger.removeHandler(handler)
    return {
        "bare": parallel is model,
        "ddp": isinstance(parallel, DistributedDataParallel),
        "logged": logged,
    }


def odd_gradients(rank: int, turn: int) -> list[torch.Tensor]:
    """Of more than the shared memory together, of fewer values than ranks, of another type and of another order."""
    generator = torch.Generator().manual_seed(90 + 10 * turn + rank)
    sizes = ((500_001,), (1,), (16, 8, 5, 5), (4097,))
    gradients = [torch.randn(size, generator=generator) * 10 ** (rank - 1) for size in sizes]
    gradients[2] = gradients[2].contiguous(memory_format=torch.channels_last)
    return [*gradients, torch.randn(300_000, generator=generator, dtype=torch.float64)]


class Odd(nn.Module):
    """Parameters whose gradients are what `odd_gradients` says."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_ = nn.ParameterList(torch.zeros_like(gradient) for gradient in odd_gradients(0, 0))

    def forward(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        products = [(p * g).sum().double() for p, g in zip(self.parameters_, gradients, strict=True)]
        return torch.stack(products).sum()


def shared(model: nn.Module) -> tuple[DistributedDataParallel, SharedAverage]:
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    average = SharedAverage.connect(sum(p.nbytes for p in model.parameters()))
    assert average is not None
    ddp.register_comm_hook(average, average_in_shared_memory)
    return ddp, average


def sharing(rank: int, world: int) -> Any:
    """Three turns of gradients; after the first, DDP arranges its buckets anew."""
    with patch.object(shared_average, "PART_BYTES", 2**20):
        model = Odd()
        ddp, average = shared(model)
    found = []
    for turn in range(3):
        model.zero_grad()
        ddp(odd_gradients(rank, turn)).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    average.close()
    return found


def sharing_in_steps(rank: int, world: int) -> Any:
    """Parameters after steps of the same model in micro-batches, both ways."""
    images, labels = step_batch()
    share = BATCH // world
    mine = slice(rank * share, (rank + 1) * share)
    found = {}
    for way in WAYS:
        model, step = train_step(share // 2, gloo=way == "gloo")
        for _ in range(3):
            step(images[mine], labels[mine])
        found[way] = [p.detach().clone() for p in model.parameters()]
    return found


def sharing_refused(rank: int, world: int) -> Any:
    """Whether anybody shares memory when the last rank cannot reach the others' node."""
    if rank and rank == world - 1:
        with patch.object(shared_average, "_connect_to", lambda address: None):
            return SharedAverage.connect(12) is None
    return SharedAverage.connect(12) is None


def sharing_with_one_gone(rank: int, world: int) -> Any:
    """What the others are told in their backward pass when the last rank ends its part of it."""
    ddp, average = shared(nn.Linear(3, 1))
    if rank == world - 1:
        average.close()
        return "gone"
    try:
        ddp(torch.ones(3)).backward()
    except dist.DistNetworkError as error:
        return str(error), str(classify(error))
    finally:
        average.close()
    return "not noticed"


def tally_loss(rank: int, number: int) -> float:
    return 1 + rank + number / 7


def tally_batch(rank: int, world: int, number: int) -> Batch:
    share = TALLY_BATCH // world
    positions = torch.arange(share) + number * TALLY_BATCH + rank * share
    ids = (positions * 5 + 2) % 97
    return Batch(torch.empty(0), ids % 3, ids, positions, torch.ones(share, dtype=torch.bool), ())


def tallied(rank: int, world: int, stop: int | None, bad: int | None = None) -> Any:
    """An epoch of steps; with `stop`, it is interrupted there, and another process goes on from what was saved."""
    tally, progress, points = EpochTotals(TrainingProgress(), CPU, rank, TALLY_INTERVAL), TrainingProgress(), []
    for number in range(TALLY_STEPS):
        if number == 4:
            totals = tally.reduce()  # a checkpoint, in every run
            points += totals.points
            progress = TrainingProgress(
                receipt=totals.receipt,
                samples=totals.samples,
                loss_sum=totals.loss_sum,
                interval_sum=totals.interval_sum,
            )
            if stop is not None:
                tally = EpochTotals(progress, CPU, rank, TALLY_INTERVAL)
        loss = float("nan") if number == bad and rank == world - 1 else tally_loss(rank, number)
        tally.add(tally_batch(rank, world, number), torch.tensor(loss), number, 100 + number, 0.5)
    totals = tally.reduce()
    points += totals.points
    return {
        "receipt": totals.receipt,
        "samples": totals.samples,
        "loss_sum": totals.loss_sum,
        "points": [tuple(point) for point in points],
        "bad": totals.first_bad,
    }


def tallying(rank: int, world: int) -> Any:
    return {
        "whole": tallied(rank, world, None),
        "resumed": tallied(rank, world, 4),
        "bad": tallied(rank, world, None, bad=5)["bad"],
    }


def voting(rank: int, world: int) -> Any:
    """What each of ten votes returned; the last rank alone says yes, once, at the fourth."""
    consensus = PreemptionConsensus(world, every_s=0)
    results = [consensus(lambda number=number: rank == world - 1 and number == 3) for number in range(10)]
    dist.barrier()
    return results


def voting_now_and_then(rank: int, world: int) -> Any:
    """The step at which this rank learns that the last one says yes from step 30 on, and the collectives up to then."""
    consensus, cast, step = PreemptionConsensus(world, every_s=0.05), 0, 0
    all_reduce = dist.all_reduce

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal cast
        cast += 1
        return all_reduce(*arguments, **named)

    with patch.object(dist, "all_reduce", counted):
        while not consensus(lambda now=step: rank == world - 1 and now >= 30) and step < 300:
            step += 1
            time.sleep(0.002 * (rank + 1))
    dist.barrier()
    return step, cast, consensus.seconds


def probing(rank: int, world: int) -> Any:
    """What each rank tried and found, where rank r has room for 24 // (r + 1) images; and for none on the last one."""
    found = []
    for room in (24 // (rank + 1), 0 if rank == world - 1 else 24):
        tried = []

        def attempt(size: int, room: int = room, tried: list[int] = tried) -> None:
            tried.append(size)
            if size > room:
                raise torch.OutOfMemoryError(f"no room on rank {rank}")

        try:
            size: int | str = probe(attempt, 24, 24, partial(true_on_all_ranks, device=CPU))
        except torch.OutOfMemoryError as error:
            size = str(error)
        found.append((tried, size))
    return found


def main(rank: int, shards: str, out: str) -> None:
    torch.set_num_threads(1)
    manifest = Manifest.load(Path(shards))

    def evaluation(rank: int, world: int) -> Any:
        found = {}
        for size in EVAL_BATCHES:
            loader = EvalLoader(manifest, image_size=32, resize=36, batch_size=size, rank=rank, world_size=world)
            found[size] = evaluate(small_model(), loader, CPU, torch.autocast("cpu", enabled=False))
        return found

    for world in WORLDS:
        if rank >= world:
            continue
        meeting = f"file://{out}/meeting-{world}"
        dist.init_process_group("gloo", meeting, timeout=timedelta(seconds=60), rank=rank, world_size=world)
        results: dict[str, Any] = {}
        several = (sharing, sharing_refused, sharing_with_one_gone) if world > 1 else ()
        scenarios = (
            averaging,
            agreement,
            summing,
            ddp_step,
            accumulating,
            wrapping,
            sharing_in_steps,
            *several,
            tallying,
            probing,
            voting,
            voting_now_and_then,
            evaluation,
        )
        for scenario in scenarios:
            try:
                results[scenario.__name__] = scenario(rank, world)
            except Exception as error:
                results[scenario.__name__] = repr(error)
        torch.save(results, f"{out}/{world}-{rank}.pt")
        dist.destroy_process_group()


if __name__ == "__main__":
    # Nothing has run in torch yet, so that forking it is safe.
    mp.start_processes(main, args=(sys.argv[1], sys.argv[2]), nprocs=max(WORLDS), start_method="fork")
