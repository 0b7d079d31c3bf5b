"""The metrics of a training: their names, and the points of its step curves."""

from __future__ import annotations

from typing import NamedTuple

EPOCH = "epoch"
STEP_LOSS, LEARNING_RATE = "train/loss", "train/lr"
EPOCH_LOSS, SAMPLES = "train/epoch_loss", "train/samples"
TOP1, TOP5, VAL_LOSS, VAL_SAMPLES = "val/top1", "val/top5", "val/loss", "val/samples"
BEST_TOP1 = "val/best_top1"
# Two halves of a receipt, because a metric is a float and holds integers only up to 2^53.
RECEIPT_HIGH, RECEIPT_LOW = "receipt/high", "receipt/low"
WORKERS, THREADS, MICRO_BATCH = "run/workers", "run/threads", "run/micro_batch"
EPOCH_SECONDS, TRAIN_SECONDS = "time/epoch_seconds", "time/train_seconds"
# When the worker of rank 0 began, and when its first step had ended, in seconds since 1970.
WORKER_AT, FIRST_STEP_AT = "time/worker_at", "time/first_step_at"
IMAGES_PER_SECOND, DATA_WAIT_SHARE = "time/images_per_second", "time/data_wait_share"
RANKS_EQUAL = "check/ranks_equal"
CORRUPT = "data/corrupt"
MODEL_TOP1 = "model/top1"
_GRADIENT = "gradient/"


def gradient_metric(number: int, part: str) -> str:
    """The name of a part's gradient norm, such as `gradient/01 stage 1`: the order of names is that of the network."""
    return f"{_GRADIENT}{number:02d} {part}"


def gradient_part(metric: str) -> str | None:
    """The part whose gradient norm a metric is; None of any other metric."""
    return metric.removeprefix(_GRADIENT).partition(" ")[2] if metric.startswith(_GRADIENT) else None


class StepPoint(NamedTuple):
    """A point of the step curves: the step count, the mean loss over all ranks and the learning rate before it."""

    step: int
    loss: float
    lr: float
