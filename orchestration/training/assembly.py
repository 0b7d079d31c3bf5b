"""Builds what one rank trains with: network, moving average, optimizer, number format, micro-batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...datasets import Batch, Mixing
from ..errors import UserError
from .classifier import NormalizedModel
from .collectives import broadcast_object, smallest_over_ranks, true_on_all_ranks
from .data_parallel import data_parallel
from .device_copy import DeviceCopy
from .ema import Ema
from .job import TrainingJob
from .micro_batch import fitting_images, largest_divisor, memory_budget, probe, require_normalizable
from .model_facts import ModelFacts
from .networks import build_network
from .optimizers import make_optimizer
from .precision import Precision, autocast, choose_precision, gradient_scaler, tune_backend
from .train_step import TrainStep
from .world import World

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingParts:
    """What a rank trains with.

    Attributes:
        facts: what is kept with the weights.
        network: the bare network, on the device.
        model: the network behind its normalisation; takes uint8 images.
        ema: the average of the weights, if the recipe asks for one.
        evaluated: the model that is evaluated, saved as best and registered: the averaged one, if there is one.
        optimizer, scaler, autocast, precision: as the recipe says.
        micro_batch: images of one forward pass.
        undivided_micro_batch: the same before it was divided for a lack of memory.
        take_step: makes one optimizer step.
        copy: brings a batch to the device.
        mixing: mixup and CutMix, or None.
    """

    facts: ModelFacts
    network: nn.Module
    model: nn.Module
    ema: Ema | None
    evaluated: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    autocast: torch.autocast
    precision: Precision
    micro_batch: int
    undivided_micro_batch: int
    take_step: TrainStep
    copy: DeviceCopy
    mixing: Mixing | None

    @property
    def averaged_networks(self) -> tuple[nn.Module, ...]:
        """The networks whose BatchNorm statistics differ between the ranks within an epoch, the evaluated one last."""
        return (self.network, self.ema.network) if self.ema else (self.network,)

    @property
    def compared_models(self) -> dict[str, nn.Module]:
        """The models that are equal on all ranks when an epoch has ended, by name: trained and evaluated."""
        return {"model": self.model} | ({"averaged model": self.evaluated} if self.ema else {})

    def step(self, batch: Batch, epoch: int, number: int, observe: Callable[[], None] | None = None) -> Tensor:
        """One optimizer step; returns the loss, a scalar on the device, without waiting for it. See `TrainStep`."""
        images, labels, partners = self.copy(batch)
        if self.mixing:
            assert partners is not None  # `make_loaders` asks for them
            images, labels = self.mixing(images, labels, partners, epoch, number)
        return self.take_step(images, labels, observe)


def assemble(job: TrainingJob, world: World, classes: Sequence[str], saved: Mapping[str, Any] | None) -> TrainingParts:
    """Build everything, with the weights that a trial starts with. A collective; needs the default process group.

    Args:
        job: what to train.
        world: this rank's place.
        classes: names of the data's classes.
        saved: the checkpoint that will be restored, whose normalisation, interpolation, number format and
            micro-batches are taken over, or None.

    Raises:
        UserError: the recipe asks for what the device does not have, micro-batches are too small for BatchNorm, or
            the weights to start from are not here.
    """
    trial, recipe, device = job.trial, job.trial.recipe, world.device
    tune_backend(device, deterministic=job.execution.deterministic)
    torch.manual_seed(trial.seed)  # every rank initialises alike; DDP checks and broadcasts anyway
    network: nn.Module
    network, inputs = build_network(trial, ModelFacts.from_dict(saved["facts"]).inputs if saved else None)
    network = network.to(device).to(memory_format=torch.channels_last)
    model = NormalizedModel(network, inputs.normalization).to(device)
    ema = Ema(network, recipe.ema) if recipe.ema else None
    optimizer = make_optimizer(network, recipe, device)
    precision = _choose_precision(job, saved, device)
    scaler, amp = gradient_scaler(precision, device), autocast(precision, device)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    attempt = partial(_attempt, network, model, loss, amp, trial.image_size)
    undivided = _choose_micro_batch(job, world, precision, attempt, saved)
    micro_batch = largest_divisor(recipe.global_batch // world.size, undivided // job.micro_batch_divisor)
    require_normalizable(trial, world.size, micro_batch)
    if recipe.sync_bn:
        # Not before memory is probed: a rank that runs out of it would leave the others waiting in a norm.
        synchronise(network, device)
    if recipe.compile:
        # In place: `torch.compile(model)` would put `_orig_mod.` before every key. Beneath DDP, whose own code it
        # cannot enter; the compiler splits its graph at DDP's buckets, so that reduction and backward overlap.
        model.compile(mode=recipe.compile_mode)
    parallel = data_parallel(model, device)
    has_graphs = recipe.compile and recipe.compile_mode == "reduce-overhead"
    mixing = Mixing(len(classes), trial.seed, recipe.mixup, recipe.cutmix)
    return TrainingParts(
        facts=ModelFacts(trial.model, tuple(classes), trial.image_size, trial.eval_resize, *inputs),
        network=network,
        model=model,
        ema=ema,
        evaluated=NormalizedModel(ema.network, inputs.normalization).to(device) if ema else model,
        optimizer=optimizer,
        scaler=scaler,
        autocast=amp,
        precision=precision,
        micro_batch=micro_batch,
        undivided_micro_batch=undivided,
        take_step=TrainStep(
            parallel, optimizer, loss, amp, scaler, micro_batch, recipe.clip_grad, ema, keeps_gradients=has_graphs
        ),
        copy=DeviceCopy(device),
        mixing=mixing if recipe.mixes else None,
    )


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Put BatchNorm over all ranks in place of every BatchNorm in the network; parameters and statistics stay.

    Raises:
        UserError: torch does not have it for the device.
    """
    if device.type != "cuda":
        raise UserError("--sync-bn needs GPUs; torch has it for CUDA only")
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]


def _choose_precision(job: TrainingJob, saved: Mapping[str, Any] | None, device: torch.device) -> Precision:
    """The recipe's number format, or the checkpoint's, or the one that suits rank 0's device."""
    wanted = job.trial.recipe.precision
    if wanted != "auto":
        return wanted
    if saved is not None:
        precision: Precision = saved["precision"]
        return precision
    return broadcast_object(choose_precision(device))


def _choose_micro_batch(
    job: TrainingJob,
    world: World,
    precision: Precision,
    attempt: Callable[[int], None],
    saved: Mapping[str, Any] | None,
) -> int:
    """Images of one forward pass: the recipe's, the checkpoint's, or as many as fit into memory on every rank."""
    trial, recipe = job.trial, job.trial.recipe
    share = recipe.global_batch // world.size
    if share == 1:
        return 1  # not to be tried: BatchNorm alone, before it is synchronised or frozen, may refuse one image
    if recipe.micro_batch is not None:
        return largest_divisor(share, recipe.micro_batch)
    if saved is not None and saved["world_size"] == world.size:
        return int(saved["micro_batch"])
    fitting = fitting_images(
        trial.model,
        trial.image_size,
        memory_budget(world.device, world.local_size),
        checkpoint_activations=recipe.checkpoint_activations,
        half=precision != "float32",
    )
    size = smallest_over_ranks(largest_divisor(share, fitting), world.device)
    if world.device.type == "cuda":
        size = probe(attempt, share, size, partial(true_on_all_ranks, device=world.device))
    if size < share and world.rank == 0:
        _log.info("%d images per worker in micro-batches of %d; BatchNorm sees these alone", share, size)
    return size


def _attempt(network: nn.Module, model: nn.Module, loss: nn.Module, amp: torch.autocast, side: int, size: int) -> None:
    """A forward and backward pass of `size` black images of `side` pixels that leaves no trace, also if it fails."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    device = next(network.parameters()).device
    images = torch.zeros((size, 3, side, side), dtype=torch.uint8, device=device)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), amp:
            loss(model(images), torch.zeros(size, dtype=torch.int64, device=device)).backward()
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, value in before:
            buffer.copy_(value)
