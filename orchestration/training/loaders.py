"""The data loaders of a trial: one rank's batches for training and for validation."""

from __future__ import annotations

from ...datasets import Augmentation, EvalLoader, Manifest, TrainLoader
from .execution import Execution
from .job import TrialPlan

# Evaluation keeps no activations, so it can take more images at a time than training.
_EVAL_BATCH_FACTOR = 2


def make_loaders(
    trial: TrialPlan,
    execution: Execution,
    manifest: Manifest,
    micro_batch: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> tuple[TrainLoader, EvalLoader]:
    """One rank's loaders for training and for validation.

    Args:
        trial: what is trained.
        execution: how many loader processes there are, and what happens to corrupt images.
        manifest: of its data.
        micro_batch: images of one forward pass in training; evaluation takes twice as many.
        rank, world_size: see `TrainLoader`.

    Raises:
        DataError: sizes that do not fit together, or no such split.
    """
    recipe = trial.recipe
    train = TrainLoader(
        manifest,
        image_size=trial.image_size,
        global_batch=recipe.global_batch,
        seed=trial.seed,
        tail=recipe.tail,
        shuffle_block=trial.shuffle_block,
        paired=recipe.mixes,
        augment=recipe.augment,
        augmentation=Augmentation(recipe.policy, erasing=recipe.erasing),
        crop_scale=(trial.min_crop, 1.0),
        rank=rank,
        world_size=world_size,
        loader_workers=execution.loader_workers,
        on_corrupt=execution.on_corrupt,
    )
    val = EvalLoader(
        manifest,
        image_size=trial.image_size,
        resize=trial.eval_resize,
        batch_size=micro_batch * _EVAL_BATCH_FACTOR,
        rank=rank,
        world_size=world_size,
        loader_workers=execution.loader_workers,
        on_corrupt=execution.on_corrupt,
    )
    return train, val
