"""What a trial will take, before it runs: seconds and memory, from a probe of the hardware or multiply-adds alone.

A training step on one worker takes `a + b · images` seconds, with a and b linear in the network's multiply-adds: two
networks and two batch sizes measure them. To that come waiting for data, the ranks' all-reduce, evaluation, and what a
trial takes before its first step and after its last. Finished trials correct the prediction.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from ...effnet.memory import TrainingMemory, estimate
from ...effnet.networks import NetworkConfig
from ..training.job import TrialPlan
from ..training.measured import MeasuredNetwork, Measurement, kind_of
from ..training.micro_batch import fitting_images, largest_divisor
from ..training.recipes import Recipe

# Without a probe: training takes three forward passes' multiply-adds, at so many per second on a core or a GPU.
_PASSES, _CORE_MACS, _GPU_MACS, _PASS_S = 3.0, 3e9, 1e12, 0.05
# Seconds of a trial besides its epochs, before the first has been measured: processes and data, export and logging.
# The end is mostly the export of the model: of a core, 22 s for B0, 34 for B4 and 51 for B7.
_START_S, _END_S, _END_BLOCK_S = 10.0, 10.0, 0.75
# Bytes per second of an all-reduce, of Gloo on one machine and of NCCL.
_GLOO_BYTES, _NCCL_BYTES = 1e9, 5e10
# More threads help less and less; the exponent is between none and all.
_THREADS = 0.8
# Bytes of a rank besides its tensors: Python, torch, Ray; with CUDA's context and pinned memory on a GPU.
_RANK_BYTES, _GPU_RANK_BYTES = 900 * 2**20, 4 * 2**30
_USABLE = 0.8


@dataclass(frozen=True)
class TrialCost:
    """What one trial takes on so many workers.

    Attributes:
        workers: DDP workers.
        micro_batch, accumulation: images of a forward pass, and forward passes of a step, on each worker.
        steps: of all epochs.
        step_seconds: of one, with waiting for data and the all-reduce.
        evaluation: seconds of all evaluations.
        start: seconds before the first step.
        end: seconds after the last epoch, in which the trial's process logs the model and its workers are gone.
        memory: bytes that each worker takes of its node.
        gpu_memory: bytes that each takes of its GPU; 0 without one.
    """

    workers: int
    micro_batch: int
    accumulation: int
    steps: int
    step_seconds: float
    evaluation: float
    start: float
    end: float
    memory: int
    gpu_memory: int

    @property
    def epochs_seconds(self) -> float:
        """Seconds of all epochs: training and evaluation."""
        return self.steps * self.step_seconds + self.evaluation

    @property
    def held_seconds(self) -> float:
        """Seconds for which the trial has its workers."""
        return self.start + self.epochs_seconds

    @property
    def seconds(self) -> float:
        """From the trial's start to its end."""
        return self.held_seconds + self.end

    @property
    def worker_hours(self) -> float:
        """Workers × hours."""
        return self.workers * self.held_seconds / 3600


class CostModel(BaseModel):
    """Predicts what a trial takes. Without a measurement it goes by multiply-adds alone.

    Attributes:
        key: under which the measurement is remembered.
        measured: a probe of the hardware, or None.
        val_samples: images of an evaluation.
        loader_workers: loader processes per DDP worker; None: the trainer's default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = ""
    measured: Measurement | None = None
    val_samples: int = 0
    loader_workers: int | None = None

    def predict(
        self, trial: TrialPlan, workers: int, cpus: int, use_gpu: bool, node_memory: int | None = None
    ) -> TrialCost:
        """What a trial takes.

        Args:
            trial: which.
            workers: DDP workers.
            cpus: cores of each.
            use_gpu: whether each has a GPU.
            node_memory: bytes of a node that each can have at most; None: any.
        """
        recipe = trial.recipe
        share = max(1, recipe.global_batch // workers)
        micro_batch = self._micro_batch(trial, share, use_gpu, node_memory)
        accumulation = -(-share // micro_batch)
        tensors = _tensor_bytes(trial, micro_batch, use_gpu)
        computing = accumulation * self._pass_seconds(trial, micro_batch, cpus, use_gpu)
        loading = share * self._load_seconds(trial)
        loaders = self.loader_workers if self.loader_workers is not None else max(1, cpus - 1) if use_gpu else 0
        waiting = max(0.0, loading / loaders - computing) if loaders else loading
        step = computing + waiting + _all_reduce_seconds(trial, workers, use_gpu)
        per_image = self._eval_seconds(trial, cpus, use_gpu) + self._load_seconds(trial) / max(1, loaders)
        factor = _median(self.measured.factors, 1.0) if self.measured else 1.0
        return TrialCost(
            workers=workers,
            micro_batch=micro_batch,
            accumulation=accumulation,
            steps=recipe.epochs * trial.batches_per_epoch,
            step_seconds=factor * step,
            evaluation=factor * recipe.epochs * -(-self.val_samples // workers) * per_image,
            start=_median(self.measured.starts if self.measured else (), _START_S),
            end=_median(self.measured.ends if self.measured else (), _END_S + _END_BLOCK_S * trial.model.block_count),
            memory=_GPU_RANK_BYTES if use_gpu else _RANK_BYTES + tensors,
            gpu_memory=tensors if use_gpu else 0,
        )

    def uncorrected(self) -> CostModel:
        """The same without what finished trials have taught."""
        plain = self.measured and self.measured.model_copy(update={"factors": ()})
        return self.model_copy(update={"measured": plain})

    def _micro_batch(self, trial: TrialPlan, share: int, use_gpu: bool, node_memory: int | None) -> int:
        recipe = trial.recipe
        if recipe.micro_batch is not None:
            return largest_divisor(share, recipe.micro_batch)
        free = self.measured.gpu_memory if use_gpu and self.measured else None if use_gpu else node_memory
        if free is None:
            return share
        budget = int(free * _USABLE) - (0 if use_gpu else _RANK_BYTES)
        half = _is_half(recipe, use_gpu)
        fitting = _fitting_images(trial.model, trial.image_size, budget, recipe.checkpoint_activations, half)
        return largest_divisor(share, fitting)

    def _pass_seconds(self, trial: TrialPlan, images: int, cpus: int, use_gpu: bool) -> float:
        if self.measured is None:
            rate = _GPU_MACS if use_gpu else _CORE_MACS * cpus**_THREADS
            return _PASS_S + _PASSES * trial.macs * images / rate
        seconds = _family(self.measured, trial.macs, lambda network: network.step_seconds(images))
        return seconds * _kind_factor(self.measured, kind_of(trial), images) * _thread_factor(self.measured, cpus)

    def _eval_seconds(self, trial: TrialPlan, cpus: int, use_gpu: bool) -> float:
        if self.measured is None:
            return trial.macs / (_GPU_MACS if use_gpu else _CORE_MACS * cpus**_THREADS)
        seconds = _family(self.measured, trial.macs, lambda network: network.eval_seconds)
        return seconds * _thread_factor(self.measured, cpus)

    def _load_seconds(self, trial: TrialPlan) -> float:
        if self.measured is None:
            return 0.0
        return _family(self.measured, trial.macs, lambda network: network.load_seconds, outside=False)


def _family(measured: Measurement, macs: int, value: Callable[[MeasuredNetwork], float], outside: bool = True) -> float:
    """A value at so many multiply-adds, on the line between two networks that differ in size alone.

    Below the smallest and above the largest it goes in proportion, or stays where `outside` is off.
    """
    base = measured.networks[0].kind
    known = sorted((network.macs, value(network)) for network in measured.networks if network.kind == base)
    sizes = [size for size, _ in known]
    above = bisect_left(sizes, macs)
    if above in (0, len(sizes)):
        size, found = known[min(above, len(sizes) - 1)]
        return found * (macs / size if outside else 1.0)
    (low, below), (high, top) = known[above - 1 : above + 1]
    return below + (top - below) * (macs - low) / (high - low)


def _kind_factor(measured: Measurement, kind: str, images: int) -> float:
    """How much longer a step takes with another activation or shortcut."""
    for network in measured.networks:
        if network.kind == kind != measured.networks[0].kind:
            return network.step_seconds(images) / _family(
                measured, network.macs, lambda other: other.step_seconds(images)
            )
    return 1.0


def _thread_factor(measured: Measurement, cpus: int) -> float:
    return 1.0 if measured.use_gpu else float((measured.cpus / cpus) ** _THREADS)


def _median(values: Iterable[float], default: float) -> float:
    values = tuple(values)
    return statistics.median(values) if values else default


def _is_half(recipe: Recipe, use_gpu: bool) -> bool:
    return recipe.precision in ("bfloat16", "float16") or (use_gpu and recipe.precision == "auto")


def _tensor_bytes(trial: TrialPlan, images: int, use_gpu: bool) -> int:
    memory = _memory(trial.model, images, trial.image_size, trial.recipe.checkpoint_activations)
    return memory.total - (memory.activations // 2 if _is_half(trial.recipe, use_gpu) else 0)


# The trials of a sweep differ in little that counts here.
@lru_cache(maxsize=4096)
def _memory(model: NetworkConfig, images: int, image_size: int, checkpoint_activations: bool) -> TrainingMemory:
    return estimate(model, images, image_size, checkpoint_activations=checkpoint_activations).memory


@lru_cache(maxsize=4096)
def _fitting_images(
    model: NetworkConfig, image_size: int, budget: int, checkpoint_activations: bool, half: bool
) -> int:
    return fitting_images(model, image_size, budget, checkpoint_activations=checkpoint_activations, half=half)


def _all_reduce_seconds(trial: TrialPlan, workers: int, use_gpu: bool) -> float:
    """Of a ring: each rank sends and takes 2 (W - 1) / W of the gradients' bytes."""
    moved = 2 * (workers - 1) / workers * 4 * trial.params
    return moved / (_NCCL_BYTES if use_gpu else _GLOO_BYTES)
