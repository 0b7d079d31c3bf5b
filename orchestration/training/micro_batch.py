"""How many images of a worker's share of the global batch go through the network at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from ...effnet.memory import estimate
from ...effnet.networks import NetworkConfig
from ..errors import UserError
from .job import TrialPlan
from .recipes import Recipe

if TYPE_CHECKING:
    import torch  # which planning need not load

# What the prediction leaves out: workspaces, the allocator's reserve, the loader's batches.
_USABLE = 0.8
_HALF = 0.5


def largest_divisor(share: int, limit: int) -> int:
    """The largest divisor of `share` that is at most `limit`, but at least 1.

    Chunks of equal size make the mean of their means the mean of the whole.
    """
    return next(size for size in range(min(share, max(limit, 1)), 0, -1) if share % size == 0)


def largest_micro_batch(recipe: Recipe, workers: int) -> int:
    """Images of a forward pass where memory sets no limit."""
    share = recipe.global_batch // workers
    return largest_divisor(share, recipe.micro_batch or share)


def is_normalizable(trial: TrialPlan, workers: int, micro_batch: int) -> bool:
    """Whether BatchNorm gets more than one value per channel from a micro-batch."""
    recipe = trial.recipe
    if micro_batch > 1 or recipe.freeze_backbone or (recipe.sync_bn and workers > 1):
        return True
    return not trial.model.has_batch_norm or trial.model.feature_edge(trial.image_size) > 1


def require_normalizable(trial: TrialPlan, workers: int, micro_batch: int) -> None:
    """Refuse a micro-batch that gives BatchNorm one value per channel, which has no variance.

    That is one image whose last feature map is one pixel. BatchNorm that is frozen, or over several workers, has more.

    Raises:
        UserError: what to change, in one line.
    """
    if is_normalizable(trial, workers, micro_batch):
        return
    recipe, side, edge = trial.recipe, trial.image_size, trial.model.feature_edge
    larger = next(pixels for pixels in itertools.count(side) if edge(pixels) > 1)
    shared = f" over {workers} workers" if workers > 1 else ""
    raise UserError(
        f"{trial.trial_id}: global batch {recipe.global_batch}{shared} in micro-batches of 1 image leaves BatchNorm "
        f"one value per channel, as the last feature map of {side} px is 1x1; use micro-batches of at least 2 images, "
        f"or images of at least {larger} px"
    )


def fitting_images(
    config: NetworkConfig, image_size: int, budget: int, *, checkpoint_activations: bool, half: bool
) -> int:
    """How many images at a time a budget of memory holds in training, by prediction; 0 if not even one.

    Args:
        config: the network.
        image_size: in pixels.
        budget: in bytes.
        checkpoint_activations: whether blocks are computed again in the backward pass.
        half: whether activations are kept in 16 bits.
    """
    fixed, each = bytes_needed(config, image_size, checkpoint_activations=checkpoint_activations, half=half)
    return max(0, int((budget - fixed) / each))


def bytes_needed(
    config: NetworkConfig, image_size: int, *, checkpoint_activations: bool, half: bool
) -> tuple[int, float]:
    """Bytes that a training step takes whatever its images, and besides for each image; see `fitting_images`."""
    one, two = (
        estimate(config, batch, image_size, checkpoint_activations=checkpoint_activations).memory for batch in (1, 2)
    )
    each = (two.activations - one.activations) * (_HALF if half else 1.0) + max(two.transient - one.transient, 0)
    return one.weights + one.gradients + one.optimizer, each


def memory_budget(device: torch.device, workers_here: int) -> int:
    """Bytes that one worker may use for training.

    Args:
        device: the worker's.
        workers_here: how many workers share this node's memory; GPUs are not shared.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _USABLE)
    return int(psutil.virtual_memory().available * _USABLE / workers_here)


def probe(
    attempt: Callable[[int], None], share: int, size: int, true_everywhere: Callable[[bool], bool] = lambda fits: fits
) -> int:
    """The largest divisor of `share`, from `size` downwards, with which `attempt` runs out of memory on no rank.

    Args:
        attempt: a training step of so many images.
        share: images of this rank in a global batch.
        size: where to begin; the same on all ranks.
        true_everywhere: whether all ranks say yes. The ranks ask after each attempt, so that all try the same sizes.

    Raises:
        torch.OutOfMemoryError: on all ranks, if one of them has no room for one image.
    """
    import torch

    while True:
        told = ""
        try:
            attempt(size)
        except torch.OutOfMemoryError as error:
            # The message alone: the error keeps the frames, and with them the tensors, of the attempt alive.
            told = str(error) or "out of memory"
        if torch.cuda.is_available():
            # What the attempt had is in pieces of its sizes; the training's may be others.
            torch.cuda.empty_cache()
        if true_everywhere(not told):
            return size
        if size == 1:
            raise torch.OutOfMemoryError(told or "out of memory on another rank, with one image at a time")
        size = largest_divisor(share, size // 2)
