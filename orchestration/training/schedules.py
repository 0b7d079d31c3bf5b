"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler's state."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from .recipes import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: float) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then the recipe's schedule.

    `cosine`: half a cosine to 0 over what is left of the run (Loshchilov and Hutter 2017). `step`: times `decay_rate`
    after every `decay_epochs`, counted from the start of the run, warm-up included, as in the reference implementation
    (tensorflow/tpu, `efficientnet/utils.py`, build_learning_rate: a staircase of `exponential_decay` whose first epochs
    the warm-up replaces).

    Args:
        steps_per_epoch: their mean, where epochs differ in length.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), math.floor(total) - 1)
    peak = recipe.peak_lr
    if step < warmup:
        return peak * (step + 1) / warmup
    if recipe.schedule == "step":
        return peak * recipe.decay_rate ** math.floor(step / (recipe.decay_epochs * steps_per_epoch))
    progress = min(1.0, (step - warmup) / (total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Apply `lr` to every parameter group, times the group's `lr_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
