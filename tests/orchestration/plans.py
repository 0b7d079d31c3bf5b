"""Planned trials without data, for what depends on their sizes alone."""

from __future__ import annotations

from typing import Any

from effnet_cluster.effnet import complexity, variant
from effnet_cluster.orchestration.training.job import TrialPlan
from effnet_cluster.orchestration.training.recipes import Recipe


def planned(
    name: str = "b0", seed: int = 0, image_size: int = 32, activation: str = "silu", **recipe: Any
) -> TrialPlan:
    """A trial of 44 batches per epoch."""
    model = variant(name, activation=activation, num_classes=10)
    cost = complexity(model, image_size)
    return TrialPlan(
        trial_id=f"x-{name}-{activation}-s{seed}",
        variant=name,
        seed=seed,
        model=model,
        image_size=image_size,
        eval_resize=image_size,
        min_crop=0.7,
        params=cost.params,
        macs=cost.macs,
        batches_per_epoch=44,
        shuffle_block=1,
        recipe=Recipe(**recipe),
    )
