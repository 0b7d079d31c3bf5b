"""Training steps on the device against the same in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...datasets import Batch
from ...orchestration.training.assembly import TrainingParts, assemble
from ...orchestration.training.checkpoint import TrainingProgress
from ...orchestration.training.collectives import lone_rank
from ...orchestration.training.data_parallel import data_parallel
from ...orchestration.training.ema import Ema
from ...orchestration.training.epoch_totals import EpochTotals
from ...orchestration.training.job import TrainingJob
from ...orchestration.training.networks import set_training_mode
from ...orchestration.training.optimizers import make_optimizer
from ...orchestration.training.randomness import seed_step_randomness
from ...orchestration.training.recipes import RECIPES
from ...orchestration.training.world import World
from .check import Check, require
from .jobs import make_job
from .photos import images
from .target import Target

_CPU = torch.device("cpu")
_BATCH = 16
STEPS = 3
"""Steps that are taken on each side."""
# Nothing random: the device draws other numbers than the CPU. A dropout of 0 also in the blocks.
_FIXED = {"dropout": 0.0, "stochastic_depth": 0.0, "global_batch": _BATCH, "pretrained": False, "warmup_epochs": 0.0}


class Tolerance(NamedTuple):
    """Largest relative errors: of the first loss, of the whole first gradient's norm, of the last loss."""

    loss: float
    gradient: float
    last: float


# float32 is TF32 on a GPU, of 10 bits of mantissa as float16; bfloat16 has 7. A gradient adds up the errors of some
# forty layers and norms of few values.
TOLERANCES = {
    "float32": Tolerance(2e-3, 3e-2, 2e-2),
    "float16": Tolerance(2e-3, 3e-2, 2e-2),
    "bfloat16": Tolerance(2e-2, 2e-1, 1e-1),
}


@dataclass(frozen=True)
class Case:
    """Fields of a recipe to compare.

    Attributes:
        name: of the check.
        recipe: what is trained on both sides.
        device_only: fields of the device's side alone, which must not change what comes out.
        variant: the network.
        cuda_only: whether the CPU lacks it.
    """

    name: str
    recipe: Mapping[str, Any]
    device_only: Mapping[str, Any] = field(default_factory=dict)
    variant: str = "b0-w0.5-d0.5"
    cuda_only: bool = False


def cases() -> Iterator[Case]:
    """Every recipe in every number format, and every option by itself."""
    for name in RECIPES:
        for precision in TOLERANCES:
            # With a bound the gradient is unscaled before the step, so that it can be read; this one cuts nothing.
            unscaled = {"clip_grad": 1e6} if precision == "float16" else {}
            # One learning rate for all: the recipes' own are for thousands of images.
            recipe = {"name": name, "lr": 1e-3, "lr_per": None}
            yield Case(f"step/{name}/{precision}", recipe, {"precision": precision} | unscaled)
    yield Case("step/sgd", {"optimizer": "sgd", "lr": 0.05})
    yield Case("step/clip", {"clip_grad": 0.1, "optimizer": "sgd", "lr": 0.1})
    yield Case("step/ema", {"ema": 0.9})
    yield Case("step/mixup", {"mixup": 0.4})
    yield Case("step/cutmix", {"cutmix": 1.0})
    yield Case("step/freeze-backbone", {"freeze_backbone": True})
    yield Case("step/micro-batches", {"micro_batch": 4})
    yield Case("step/checkpointed-activations", {}, {"checkpoint_activations": True})
    yield Case("step/sync-bn", {}, {"sync_bn": True}, cuda_only=True)
    yield Case("step/sync-bn/checkpointed", {}, {"sync_bn": True, "checkpoint_activations": True}, cuda_only=True)
    yield Case("step/compile", {}, {"compile": True}, cuda_only=True)
    yield Case("step/compile/bfloat16", {"ema": 0.9}, {"compile": True, "precision": "bfloat16"}, cuda_only=True)
    yield Case("step/compile/checkpointed", {}, {"compile": True, "checkpoint_activations": True}, cuda_only=True)
    graphs = {"compile": True, "compile_mode": "reduce-overhead"}
    yield Case("step/compile/reduce-overhead", {"ema": 0.9}, graphs, cuda_only=True)
    yield Case("step/compile/reduce-overhead/micro", {"micro_batch": 4}, graphs, cuda_only=True)


def checks() -> list[Check]:
    """The cases as checks, and that no step waits for the device."""
    steps = [Check(case.name, partial(compare, case), cuda_only=case.cuda_only) for case in cases()]
    return steps + [
        Check(f"no-wait/{name}", partial(_never_waits, recipe), cuda_only=True) for name, recipe in _UNWAITED
    ]


def compare(case: Case, target: Target) -> str:
    """Take some steps on both sides; returns the relative errors.

    Raises:
        CheckError: one is too large.
    """
    recipe = {"precision": "float32"} | _FIXED | dict(case.recipe)
    precision = str(case.device_only.get("precision", "float32"))
    job = partial(make_job, target, variant=case.variant, image_size=64, deterministic=True)
    with lone_rank():
        here = assemble_alone(job("device", recipe | dict(case.device_only)), target.device)
        there = _in_float64(job("cpu", recipe, device="cpu"))
        batch = batch_of(_BATCH, 64, paired=here.mixing is not None)
        mine, truth = _train(here, batch), _train(there, batch)
    limits = TOLERANCES[precision]
    first = abs(mine.losses[0] - truth.losses[0]) / truth.losses[0]
    gradient = float((mine.gradient - truth.gradient).norm() / truth.gradient.norm())
    last = abs(mine.losses[-1] - truth.losses[-1]) / truth.losses[-1]
    seen = f"loss {first:.1e}, gradient {gradient:.1e}, loss of step {STEPS} {last:.1e}"
    for value, limit in zip((first, gradient, last), limits, strict=True):
        require(value <= limit, f"{seen}; at most {limits.loss:g}, {limits.gradient:g}, {limits.last:g}")
    if mine.averaged is not None:
        assert truth.averaged is not None
        average = float((mine.averaged - truth.averaged).norm() / truth.averaged.norm())
        seen += f", average {average:.1e}"
        require(average <= limits.gradient, seen)
    return seen


class _Trained(NamedTuple):
    losses: list[float]
    gradient: Tensor
    averaged: Tensor | None


def _train(parts: TrainingParts, batch: Batch) -> _Trained:
    set_training_mode(parts.model)
    losses = []
    gradient = torch.empty(0)
    for number in range(STEPS):
        losses.append(parts.step(batch, 0, number).item())
        if number == 0:
            found = [p.grad for p in parts.network.parameters() if p.grad is not None]
            gradient = torch.cat([g.detach().double().cpu().contiguous().view(-1) for g in found])
    averaged = None
    if parts.ema:
        averaged = torch.cat([p.detach().double().cpu().contiguous().view(-1) for p in parts.ema.network.parameters()])
    return _Trained(losses, gradient, averaged)


def assemble_alone(job: TrainingJob, device: torch.device) -> TrainingParts:
    """What the only rank trains the job with, on a device; the default process group must be up."""
    return assemble(job, World(0, 1, 1, device), tuple(map(str, range(job.trial.model.num_classes))), None)


def _in_float64(job: TrainingJob) -> TrainingParts:
    """What `assemble` builds, in float64: the same initial weights, as these are drawn on the CPU in float32."""
    parts, recipe = assemble_alone(job, _CPU), job.trial.recipe
    network = parts.network.double().to(memory_format=torch.contiguous_format)
    model = parts.model.double()
    ema = Ema(network, recipe.ema) if recipe.ema else None
    optimizer = make_optimizer(network, recipe, _CPU)
    step = replace(parts.take_step, model=data_parallel(model, _CPU), optimizer=optimizer, ema=ema)
    return replace(parts, model=model, ema=ema, optimizer=optimizer, take_step=step)


def batch_of(count: int, side: int, *, paired: bool = False) -> Batch:
    """`count` photographs of ten classes, `side` pixels wide."""
    numbers = torch.arange(count)
    return Batch(
        images=images(count, side),
        labels=numbers % 10,
        sample_ids=numbers,
        positions=numbers,
        mask=torch.ones(count, dtype=torch.bool),
        partners=numbers ^ 1 if paired else None,
    )


# Steps of these recipes only queue work. TensorFlow's RMSProp with a scaler is left out: torch's scaler then reads a
# flag from the device at each step.
_UNWAITED: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"precision": "bfloat16", "ema": 0.9, "clip_grad": 1.0}),
    ("sgd", {"precision": "bfloat16", "optimizer": "sgd"}),
    ("rmsprop", {"precision": "bfloat16", "optimizer": "rmsprop", "ema": 0.9}),
    ("mixing", {"precision": "bfloat16", "mixup": 0.2, "cutmix": 1.0}),
    ("micro-batches", {"precision": "float32", "micro_batch": 4}),
    ("scaler", {"precision": "float16", "optimizer": "adamw"}),
]


def _never_waits(recipe: Mapping[str, Any], target: Target) -> str:
    """Whether steps and the counting of their losses queue work only: torch raises where the host waits."""
    job = make_job(target, "device", {"global_batch": _BATCH} | dict(recipe), image_size=64, deterministic=True)
    with lone_rank():
        parts = assemble_alone(job, target.device)
        batch = batch_of(_BATCH, 64, paired=parts.mixing is not None)
        batch = batch._replace(images=batch.images.pin_memory(), labels=batch.labels.pin_memory())
        if batch.partners is not None:
            batch = batch._replace(partners=batch.partners.pin_memory())
        totals = EpochTotals(TrainingProgress(), target.device, 0, interval=2)
        set_training_mode(parts.model)

        def step(number: int) -> None:
            seed_step_randomness(0, number, 0)
            totals.add(batch, parts.step(batch, 0, number), number, number, 1e-3)

        for number in range(3):
            step(number)
        torch.cuda.synchronize(target.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(3, 9):
                step(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "6 steps queued"
