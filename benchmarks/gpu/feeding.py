"""What the device waits for: data from real shards with several numbers of loader workers, and the phases of a step."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...datasets import Batch, Manifest, prepare
from ...datasets.preparing.processes import processes
from ...orchestration.training.assembly import TrainingParts, assemble
from ...orchestration.training.collectives import lone_rank
from ...orchestration.training.job import TrainingJob
from ...orchestration.training.loaders import make_loaders
from ...orchestration.training.networks import set_training_mode
from ...orchestration.training.world import World
from .jobs import make_job
from .photos import crops, jpeg
from .target import Target

# Photographs as ImageNet's are on average: 500 by 375 pixels.
_WIDTH, _HEIGHT, _DISTINCT, _CLASSES = 500, 375, 500, 10
PHASES = ("copy and mixing", "forward", "loss and backward", "optimizer", "average", "between steps")


@dataclass(frozen=True)
class FeedingResult:
    """Training with so many loader workers.

    Attributes:
        loader_workers: processes that read and decode; `cores` are this machine's.
        images_per_second: of the training.
        waited_share: of its time, by which it is longer than steps on a batch that lies on the device.
        asked_share: of its time, in which the host waited for the next batch.
    """

    loader_workers: int
    cores: int
    images_per_second: float
    waited_share: float
    asked_share: float


@dataclass(frozen=True)
class PhaseResult:
    """Where a step's time goes: device milliseconds by phase, and by the kernels that take most of it."""

    phases: dict[str, float]
    kernels: dict[str, float]


def measure(target: Target, tell: Callable[[str], None]) -> tuple[list[FeedingResult], PhaseResult]:
    """Train B0 from shards of photographs with 4, 8 and 16 loader workers, then look into its steps."""
    batch, steps = (4, 4) if target.tiny else (256, 90)
    began = time.perf_counter()
    data = _shards(target, batch * steps)
    tell(f"{len(data.split('train'))} photographs written in {time.perf_counter() - began:.0f} s")
    results = []
    cores = len(os.sched_getaffinity(0))
    with lone_rank():
        job = make_job(
            target,
            "feeding",
            {"global_batch": batch, "precision": "bfloat16" if target.is_cuda else "float32", "ema": 0.9999},
            variant="b0-w0.25-d0.25" if target.tiny else "b0",
            image_size=32 if target.tiny else 224,
            data=str(data.location),
        )
        world = World(0, 1, 1, target.device)
        parts = assemble(job, world, data.classes, None)
        set_training_mode(parts.model)
        for workers in (1,) if target.tiny else (4, 8, 16):
            results.append(_feed(job, world, parts, data, workers, cores, target))
            tell(f"{workers} loader workers: {results[-1].images_per_second:.0f} images/s")
        resident = next(iter(_loader(job, world, data, parts, 0)))
        phases = _phases(parts, resident, target)
    return results, phases


def _shards(target: Target, count: int) -> Manifest:
    folder = target.folder / "photographs"
    size = (64, 48) if target.tiny else (_WIDTH, _HEIGHT)
    for split, images in (("train", count), ("val", _CLASSES)):
        for number in range(_CLASSES):
            (folder / split / f"class-{number}").mkdir(parents=True)
        pictures = [jpeg(crop) for crop in crops(min(images, _DISTINCT), *size, seed=len(split))]
        for number in range(images):
            # Every file is another: a comment of JPEG's after the first marker.
            comment = struct.pack(">HHQ", 0xFFFE, 10, number)
            content = pictures[number % len(pictures)]
            file = folder / split / f"class-{number % _CLASSES}" / f"{number:06}.jpg"
            file.write_bytes(content[:2] + comment + content[2:])
    return prepare(folder, target.folder / "shards", mapper=processes(len(os.sched_getaffinity(0))))


def _loader(job: TrainingJob, world: World, data: Manifest, parts: TrainingParts, workers: int) -> Iterator[Batch]:
    execution = job.execution.model_copy(update={"loader_workers": workers})
    loader, _ = make_loaders(job.trial, execution, data, parts.micro_batch, world)
    return loader.epoch(0)


def _feed(
    job: TrainingJob, world: World, parts: TrainingParts, data: Manifest, workers: int, cores: int, target: Target
) -> FeedingResult:
    """The last two thirds of an epoch: before, the loader's queues may still hold what it read ahead."""
    batches = _loader(job, world, data, parts, workers)
    count = job.trial.batches_per_epoch
    skipped, asked = count // 3, 0.0
    started = before = time.perf_counter()
    for number, batch in enumerate(batches):
        asked += time.perf_counter() - before
        if number == skipped:
            target.synchronize()
            started, asked = time.perf_counter(), 0.0
        parts.step(batch, 0, number)
        before = time.perf_counter()
    target.synchronize()
    fed = time.perf_counter() - started
    on_device = batch._replace(images=batch.images.to(target.device), labels=batch.labels.to(target.device))
    started = time.perf_counter()
    for number in range(skipped, count):
        parts.step(on_device, 0, number)
    target.synchronize()
    alone = time.perf_counter() - started
    images = (count - skipped) * job.trial.recipe.global_batch
    return FeedingResult(workers, cores, images / fed, max(0.0, 1 - alone / fed), asked / fed)


def _phases(parts: TrainingParts, batch: Batch, target: Target) -> PhaseResult:
    if not target.is_cuda:
        return PhaseResult({}, {})
    batch = batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())
    marks: list[list[torch.cuda.Event]] = []

    def mark(*_: Any) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        marks[-1].append(event)

    hooks = [
        parts.model.register_forward_pre_hook(mark),
        parts.model.register_forward_hook(mark),
        parts.optimizer.register_step_pre_hook(mark),
        parts.optimizer.register_step_post_hook(mark),
    ]
    for number in range(12):
        marks.append([])
        mark()
        parts.step(batch, 0, number)
        mark()
    torch.cuda.synchronize()
    for hook in hooks:
        hook.remove()
    sums = dict.fromkeys(PHASES, 0.0)
    measured = marks[2:]
    for events, following in zip(measured, [*measured[1:], None], strict=True):
        ends = [*events, following[0]] if following else events
        for phase, first, second in zip(PHASES, ends, ends[1:], strict=False):
            sums[phase] += first.elapsed_time(second) / len(measured)
    return PhaseResult(sums, _kernels(parts, batch))


def _kernels(parts: TrainingParts, batch: Batch, steps: int = 5) -> dict[str, float]:
    """Device milliseconds per step of the ten kernels that take most, by name, and of all others."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for number in range(steps):
            parts.step(batch, 0, number)
        torch.cuda.synchronize()
    times = {row.key: row.self_device_time_total / 1000 / steps for row in profile.key_averages()}
    first = sorted(times, key=lambda name: -times[name])[:10]
    return {name[:90]: times.pop(name) for name in first} | {"all others": sum(times.values())}
