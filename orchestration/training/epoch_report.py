"""The metrics of a finished epoch, by their names."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from . import metrics
from .checkpoint import TrainingProgress
from .collectives import mean_over_ranks
from .epoch_totals import Totals
from .world import World


def epoch_report(
    done: TrainingProgress,
    after: TrainingProgress,
    trained: Totals,
    val: Mapping[str, float | int],
    batches: int,
    world: World,
) -> dict[str, float]:
    """The same metrics on every rank. A collective.

    Args:
        done: the progress at the epoch's last batch.
        after: the progress with which the next epoch begins.
        trained: the epoch's totals over all ranks.
        val: what `evaluate` returned.
        batches: global batches of the epoch.
        world: this rank's place.
    """
    return {
        metrics.EPOCH: float(after.epoch),
        **{f"val/{name}": float(value) for name, value in val.items()},
        metrics.BEST_TOP1: after.best_top1,
        metrics.EPOCH_LOSS: trained.loss_sum / batches,
        metrics.SAMPLES: float(trained.samples),
        metrics.RECEIPT_HIGH: float(trained.receipt >> 32),
        metrics.RECEIPT_LOW: float(trained.receipt & 0xFFFFFFFF),
        metrics.WORKERS: float(world.size),
        metrics.THREADS: float(torch.get_num_threads()),
        metrics.EPOCH_SECONDS: done.epoch_seconds,
        metrics.TRAIN_SECONDS: after.seconds,
        metrics.IMAGES_PER_SECOND: trained.samples / done.epoch_seconds,
        metrics.DATA_WAIT_SHARE: mean_over_ranks(done.waited / done.epoch_seconds, world.device),
    }
