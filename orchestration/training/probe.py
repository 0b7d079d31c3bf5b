"""Measures how fast a worker trains some networks: a few steps of each. `python -m …training.probe` reads an order.

The order is JSON on standard input, the answer JSON on standard output. Large networks are tried with few images, of
which the time grows in proportion.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...datasets import Batch, Manifest, open_dataset
from .assembly import TrainingParts, assemble
from .collectives import lone_rank
from .job import TrainingJob, TrialPlan
from .loaders import make_loaders
from .measured import MeasuredNetwork, Measurement, ProbeOrder, kind_of
from .micro_batch import fitting_images, memory_budget
from .world import World

# Batches double from the fewest images until a step takes so many seconds; the other measured one is a quarter of the
# last. A step that is slower than the second number is not repeated.
_STEP_S, _SLOW_S = 0.5, 5.0
_FEWEST, _MOST, _SMALLER, _REPEATS = 2, 128, 4, 2
# Images that are loaded to time it.
_LOADED = 16


def probe(order: ProbeOrder) -> Measurement:
    """Measure on this machine. Takes a few seconds per network, or what a step of two images takes.

    Raises:
        DataError, OSError: the data cannot be read.
    """
    torch.set_num_threads(order.cpus)
    device = torch.device("cuda" if order.use_gpu else "cpu")
    memory = torch.cuda.mem_get_info(device)[0] if order.use_gpu else None
    manifest = open_dataset(order.data, Path(order.cache_root), order.execution.cache_limit, typed=False)
    with lone_rank(), tempfile.TemporaryDirectory() as storage:
        networks = tuple(_measure(trial, order, manifest, device, storage) for trial in order.trials)
    return Measurement(use_gpu=order.use_gpu, cpus=order.cpus, gpu_memory=memory, networks=networks)


def _measure(
    trial: TrialPlan, order: ProbeOrder, manifest: Manifest, device: torch.device, storage: str
) -> MeasuredNetwork:
    share = max(_FEWEST, min(trial.recipe.global_batch, trial.recipe.micro_batch or _MOST, _MOST))
    loaded = max(_FEWEST, min(share, _LOADED, len(manifest.split("train"))))
    # Random weights, and no compiler: both take minutes to come and change little.
    start = {"pretrained": False, "weights": None, "compile": False}
    step_of = {"global_batch": loaded, "micro_batch": loaded, "mixup": 0.0, "cutmix": 0.0, "sync_bn": False}
    recipe = trial.recipe.model_copy(update=start | step_of)
    trial = trial.model_copy(update={"recipe": recipe})
    job = TrainingJob(
        trial=trial,
        execution=order.execution.model_copy(update={"loader_workers": 0}),
        data=order.data,
        data_digest=order.data_digest,
        storage=storage,
        cache_root=order.cache_root,
    )
    world = World(0, 1, 1, device)
    parts = assemble(job, world, manifest.classes, None)
    loader, _ = make_loaders(trial, job.execution, manifest, loaded, world)
    batch, load_seconds = _load(loader.epoch, loaded)

    def step(images: int) -> float:
        """Seconds of one training step."""
        some, labels = _repeat(batch.images, images), _repeat(batch.labels, images)
        parts.take_step.micro_batch = images
        return _timed(lambda: _train(parts, some, labels, device), device)

    fitting = fitting_images(
        trial.model,
        trial.image_size,
        memory_budget(device, 1),
        checkpoint_activations=recipe.checkpoint_activations,
        half=parts.precision != "float32",
    )
    most, known = max(_FEWEST, min(share, fitting)), dict[int, float]()
    # A GPU is not too slow for many images, but takes seconds to prepare for each size of a batch.
    fewest, growth = (max(_FEWEST, most // _SMALLER), _SMALLER) if order.use_gpu else (_FEWEST, 2)
    images = fewest
    while True:
        first = step(images)  # of this size: plans are made and memory is asked for
        known[images] = first if first > _SLOW_S else min(step(images) for _ in range(_REPEATS))
        if images == most or known[images] > _STEP_S:
            break
        images = min(growth * images, most)
    sizes = sorted({max(size for size in known if size == fewest or size <= images // _SMALLER), images})
    return MeasuredNetwork(
        macs=trial.macs,
        kind=kind_of(trial),
        images=tuple(sizes),
        seconds=tuple(known[size] for size in sizes),
        eval_seconds=_evaluate(parts, _repeat(batch.images, images), device) / images,
        load_seconds=load_seconds,
    )


def _load(epoch: Callable[[int], object], images: int) -> tuple[Batch, float]:
    """A batch, and the seconds per image that another took."""
    batches = iter(epoch(0))  # type: ignore[call-overload]
    batch = next(batches)
    alone = torch.device("cpu")
    seconds = _timed(lambda: next(batches, None) or next(iter(epoch(1))), alone)  # type: ignore[call-overload]
    return batch, seconds / images


def _repeat(tensor: Tensor, images: int) -> Tensor:
    """So many rows of the tensor, from the first again after the last."""
    return tensor[torch.arange(images) % len(tensor)]


def _train(parts: TrainingParts, images: Tensor, labels: Tensor, device: torch.device) -> None:
    moved = images.to(device, memory_format=torch.channels_last)
    parts.take_step(moved, labels.to(device))


def _evaluate(parts: TrainingParts, images: Tensor, device: torch.device) -> float:
    moved = images.to(device, memory_format=torch.channels_last)
    parts.evaluated.eval()
    with torch.inference_mode(), parts.autocast:
        parts.evaluated(moved)
        return _timed(lambda: parts.evaluated(moved), device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a piece of work: of the processor where that is less, as other processes may have had it meanwhile."""
    started, used = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter() - started
    return min(time.perf_counter() - started, time.process_time() - used)


if __name__ == "__main__":
    print(probe(ProbeOrder.model_validate_json(sys.stdin.read())).model_dump_json())
