"""The data loaders of a trial: one rank's batches for training and for validation."""

from __future__ import annotations

import os

from ...datasets import Augmentation, EvalLoader, Manifest, TrainLoader
from ...effnet.pretrained import Interpolation
from .execution import Execution
from .job import TrialPlan
from .world import World

# Evaluation keeps no activations, so it can take more images at a time than training. On a GPU it takes as many: for
# another batch cuDNN would prepare every convolution anew (docs/gpu.md).
_EVAL_BATCH_FACTOR = 2
# More than that feed no GPU faster that we know: a core decodes some 300 to 800 photographs per second.
_MOST_PROCESSES = 16


def loader_processes(execution: Execution, world: World) -> int:
    """Loader processes of a rank: as many as set, else what suits its device.

    On a CPU none, since its cores compute. Beside a GPU one per core but one, which drives the GPU; at least one.
    """
    if execution.loader_workers is not None:
        return execution.loader_workers
    if world.device.type == "cpu":
        return 0
    cores = execution.cpus_per_worker or len(os.sched_getaffinity(0)) // world.local_size
    return min(max(1, cores - 1), _MOST_PROCESSES)


def make_loaders(
    trial: TrialPlan,
    execution: Execution,
    manifest: Manifest,
    micro_batch: int,
    world: World,
    interpolation: Interpolation = "bicubic",
) -> tuple[TrainLoader, EvalLoader]:
    """One rank's loaders for training and for validation.

    Args:
        trial: what is trained.
        execution: how many loader processes there are, and what happens to corrupt images.
        manifest: of its data.
        micro_batch: images of one forward pass in training; on a CPU, evaluation takes twice as many.
        world: this rank's place.
        interpolation: of the resize in evaluation.

    Raises:
        DataError: sizes that do not fit together, or no such split.
    """
    recipe = trial.recipe
    loader_workers, pin_memory = loader_processes(execution, world), world.device.type == "cuda"
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
        interpolation=interpolation,
        crop_scale=(trial.min_crop, 1.0),
        rank=world.rank,
        world_size=world.size,
        loader_workers=loader_workers,
        pin_memory=pin_memory,
        on_corrupt=execution.on_corrupt,
    )
    val = EvalLoader(
        manifest,
        image_size=trial.image_size,
        resize=trial.eval_resize,
        interpolation=interpolation,
        batch_size=micro_batch if world.device.type == "cuda" else micro_batch * _EVAL_BATCH_FACTOR,
        rank=world.rank,
        world_size=world.size,
        loader_workers=loader_workers,
        pin_memory=pin_memory,
        on_corrupt=execution.on_corrupt,
    )
    return train, val
