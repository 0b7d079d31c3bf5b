"""The loop that every DDP worker of a trial runs: train, evaluate, check, log, checkpoint, once an epoch."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..datasets import (
    Augmentation,
    Batch,
    Corrupt,
    EvalLoader,
    Manifest,
    Mixing,
    OnCorrupt,
    TrainLoader,
    merge_receipts,
    open_dataset,
    receipt,
)
from ..effnet import EfficientNet
from . import checkpoint
from .checkpoint import Progress
from .classifier import NormalizedModel, ServedClassifier
from .distributed import average_buffers, check_ranks_agree, evaluate, gather_over_ranks, sum_over_ranks
from .models import ModelFacts
from .plan import TrialPlan
from .recipe import initialise_head, learning_rate, make_optimizer, seed_step_randomness, set_learning_rate
from .tracking import MetricLog, Tracker, log_model

# Evaluation keeps no activations, so it can take more images at a time than training.
_EVAL_BATCH_FACTOR = 2
# Points of the step curves an epoch: enough to see a curve, few enough for a million steps.
_STEP_POINTS = 20
# Corrupt samples that the job's log names an epoch.
_CORRUPT_LINES = 20
SCORE = "val/top1"


@dataclass(frozen=True)
class TrialJob:
    """All that a worker is told. `cache_root` is a folder on the worker's own node."""

    trial: TrialPlan
    data: str
    data_digest: str
    loader_workers: int
    cache_limit: int | None
    on_corrupt: OnCorrupt
    spec_digest: str
    tracking_uri: str
    experiment: str
    run_id: str
    cache_root: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for Ray's `train_loop_config`."""
        return vars(self) | {"trial": self.trial.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrialJob:
        """The inverse of `to_dict`."""
        return cls(**fields | {"trial": TrialPlan.from_dict(fields["trial"])})


class EpochResult(NamedTuple):
    """What one rank knows after training an epoch. `points` are (global step, mean loss, learning rate)."""

    loss: float
    receipt: int
    samples: int
    seconds: float
    wait_share: float
    points: list[tuple[int, float, float]]
    corrupt: list[Corrupt]


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker. `config` is `TrialJob.to_dict()`."""
    # Ray Train writes every report of every rank to the root logger; `logs` should show one line an epoch.
    logging.getLogger().setLevel(logging.WARNING)
    _Worker(TrialJob.from_dict(config)).run()


class _Worker:
    """One rank's model, data and place in the run."""

    def __init__(self, job: TrialJob) -> None:
        context = ray.train.get_context()
        self.job, self.trial, self.recipe = job, job.trial, job.trial.recipe
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.amp, self.scaler = _mixed_precision(self.device, self.recipe.amp)
        _tune_backend(self.device)

        torch.manual_seed(self.trial.seed)  # every rank initialises alike; DDP checks and broadcasts anyway
        network = EfficientNet(self.trial.model, checkpoint_activations=self.recipe.checkpoint_activations)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        initialise_head(self.network.classifier)
        self.model = NormalizedModel(self.network).to(self.device)
        self.optimizer = make_optimizer(self.network, self.recipe, self.device)
        self.progress = Progress()
        self._resume()
        if self.recipe.compile:
            # In place: `torch.compile(model)` would put `_orig_mod.` before every key. Beneath DDP, whose own code it
            # cannot enter; the compiler splits its graph at DDP's buckets, so that reduction and backward overlap.
            self.model.compile()
        self.ddp = DistributedDataParallel(
            self.model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            # Statistics are averaged once an epoch instead of copied from rank 0 at every step.
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)
        manifest = open_dataset(job.data, Path(job.cache_root), job.cache_limit)
        _check_digest(manifest, job.data_digest)
        self.facts = ModelFacts(
            self.trial.model, tuple(manifest.classes), self.trial.image_size, self.trial.eval_resize
        ).to_dict()
        self.train_loader, self.val_loader = self._loaders(manifest)
        mixing = Mixing(len(manifest.classes), self.trial.seed, self.recipe.mixup, self.recipe.cutmix)
        self.mixing = mixing if mixing.mixup or mixing.cutmix else None
        self.metrics = MetricLog(self._tracker(), job.run_id) if self.rank == 0 else None

    def run(self) -> None:
        """Train the epochs that are left, then log the best model."""
        for epoch in range(self.progress.epochs_done, self.recipe.epochs):
            trained = self._train_epoch(epoch)
            average_buffers(self.model)
            agreeing = check_ranks_agree(self.model, epoch)
            report = self._report(epoch, trained) | {"check/ranks_equal": float(agreeing)}
            if self.metrics:
                self.metrics.log_steps([(step, {"train/loss": v, "train/lr": lr}) for step, v, lr in trained.points])
                # Metrics first, checkpoint second: what is lost in between is recomputed and recognised as logged.
                self.metrics.log(epoch + 1, report)
                self._say(epoch, report)
            self._checkpoint(report)
        if self.rank == 0:
            self._log_best()

    def _train_epoch(self, epoch: int) -> EpochResult:
        """One pass over the training batches of this rank."""
        steps = self.train_loader.batches_per_epoch
        interval = max(1, steps // _STEP_POINTS)
        seed_step_randomness(self.trial.seed, epoch, self.rank)
        self.ddp.train()  # type: ignore[no-untyped-call]
        # Losses stay on the device; reading one every step would make the host wait for it.
        running = torch.zeros((), device=self.device)
        total = torch.zeros((), device=self.device)
        means: list[tuple[int, Tensor, float]] = []
        receipts, samples, waited = 0, 0, 0.0
        corrupt: list[Corrupt] = []
        started = before = time.perf_counter()
        for number, batch in enumerate(self.train_loader.epoch(epoch)):
            waited += time.perf_counter() - before
            step = epoch * steps + number
            lr = learning_rate(self.recipe, step, steps)
            set_learning_rate(self.optimizer, lr)
            loss = self._step(batch, epoch, number)
            running += loss
            receipts = merge_receipts(receipts, receipt(batch.positions.numpy(), batch.sample_ids.numpy()))
            samples += len(batch.labels)
            corrupt += batch.corrupt
            if (number + 1) % interval == 0:
                means.append((step + 1, running / interval, lr))
                total += running
                running = torch.zeros((), device=self.device)
            before = time.perf_counter()
        mean = ((total + running) / steps).item()
        seconds = time.perf_counter() - started
        points = [(step, value.item(), lr) for step, value, lr in means]
        return EpochResult(mean, receipts, samples, seconds, waited / seconds, points, corrupt)

    def _step(self, batch: Batch, epoch: int, number: int) -> Tensor:
        """One optimizer step; returns the detached loss on the device."""
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device, non_blocking=True)
        if self.mixing:
            images, labels = self.mixing(images, labels, epoch, number)
        self.optimizer.zero_grad(set_to_none=True)
        with self.amp:
            loss = self.loss(self.ddp(images), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()  # type: ignore[no-any-return]

    def _report(self, epoch: int, trained: EpochResult) -> dict[str, float]:
        """Evaluate, combine what the ranks know, and check that the epoch consumed what the manifest says."""
        corrupt = list(trained.corrupt)
        val = evaluate(self.model, _noting(self.val_loader, corrupt), self.device, self.amp)
        if self.job.on_corrupt == "skip":
            self._tell_corrupt(epoch, gather_over_ranks(corrupt))
        sums = (
            sum_over_ranks(torch.tensor([trained.loss, trained.wait_share], dtype=torch.float64, device=self.device))
            / self.world_size
        )
        # uint64 receipts travel as int64: addition wraps alike.
        signed = trained.receipt - (1 << 64) if trained.receipt >= 1 << 63 else trained.receipt
        counts = sum_over_ranks(torch.tensor([signed, trained.samples], dtype=torch.int64, device=self.device))
        consumed, samples = int(counts[0].item()) % (1 << 64), int(counts[1].item())
        expected = self.train_loader.expected_receipt(epoch)
        if consumed != expected:
            raise RuntimeError(f"epoch {epoch}: consumed samples {consumed:016x}, the manifest says {expected:016x}")
        seconds = self.progress.seconds + trained.seconds
        self.progress = replace(self.progress, epochs_done=epoch + 1, seconds=seconds)
        if val["top1"] > self.progress.best_top1:
            self.progress = replace(self.progress, best_top1=float(val["top1"]), best_epoch=epoch)
        return {
            "epoch": float(epoch + 1),
            **{f"val/{name}": float(value) for name, value in val.items()},
            "val/best_top1": self.progress.best_top1,
            "train/epoch_loss": sums[0].item(),
            "train/samples": float(samples),
            # Halves, because a metric is a float and holds integers only up to 2^53.
            "receipt/high": float(consumed >> 32),
            "receipt/low": float(consumed & 0xFFFFFFFF),
            "run/workers": float(self.world_size),
            "time/epoch_seconds": trained.seconds,
            "time/train_seconds": seconds,
            "time/images_per_second": float(samples) / trained.seconds,
            "time/data_wait_share": sums[1].item(),
        }

    def _tell_corrupt(self, epoch: int, corrupt: list[Corrupt]) -> None:
        """Count the epoch's corrupt samples in MLflow and list them there and in the log."""
        if not self.metrics:
            return
        self.metrics.log(epoch + 1, {"data/corrupt": float(len(corrupt))})
        lines = [
            f"{entry.reason}; " + (f"replaced by sample {entry.replacement}" if entry.replacement >= 0 else "left out")
            for entry in sorted(corrupt)
        ]
        if lines:
            self._tracker().log_text(self.job.run_id, "\n".join(lines) + "\n", f"corrupt/epoch-{epoch + 1:03d}.txt")
        for line in lines[:_CORRUPT_LINES]:
            print(f"[{self.trial.trial_id}] epoch {epoch + 1}: {line}", flush=True)
        if len(lines) > _CORRUPT_LINES:
            print(f"[{self.trial.trial_id}] epoch {epoch + 1}: {len(lines)} corrupt in all, see MLflow", flush=True)

    def _checkpoint(self, report: dict[str, float]) -> None:
        """Report the epoch to Ray Train: a barrier over the ranks, with the checkpoint of rank 0."""
        if self.rank != 0:
            ray.train.report(report)
            return
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), self.network, self.optimizer, self.progress, self.job.spec_digest, self.facts)
            ray.train.report(report, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _resume(self) -> None:
        """Continue from the latest checkpoint of this trial, if there is one."""
        latest = ray.train.get_checkpoint()
        if latest is None:
            return
        with latest.as_directory() as folder:
            state = checkpoint.read(Path(folder), self.job.spec_digest, self.device)
        self.progress = checkpoint.restore(state, self.network, self.optimizer)
        if self.rank == 0:
            print(f"[{self.trial.trial_id}] resumed after epoch {self.progress.epochs_done}", flush=True)

    def _log_best(self) -> None:
        """Log the model of the best epoch to MLflow as what it is: images in, probabilities out."""
        if self.progress.best_epoch != self.progress.epochs_done - 1:
            reported = ray.train.get_all_reported_checkpoints()
            best = max(reported, key=lambda entry: entry.metrics[SCORE])
            with best.checkpoint.as_directory() as folder:
                state = checkpoint.read(Path(folder), self.job.spec_digest, self.device)
            self.network.load_state_dict(state["model"])
        served = ServedClassifier(self.network, self.trial.image_size, self.trial.eval_resize).cpu().eval()
        # Two images: torch.export would fix a batch of one as the only size. Higher than wide, so that both stay free.
        first = next(iter(self.val_loader)).images[:2].permute(0, 2, 3, 1)
        example = torch.cat([first, first[:, :4]], dim=1).contiguous().numpy()
        log_model(self._tracker(), self.job.run_id, served, example, self.progress.best_top1, self.facts)

    def _loaders(self, manifest: Manifest) -> tuple[TrainLoader, EvalLoader]:
        shared: dict[str, Any] = {
            "rank": self.rank,
            "world_size": self.world_size,
            "loader_workers": self.job.loader_workers,
            "on_corrupt": self.job.on_corrupt,
        }
        train = TrainLoader(
            manifest,
            image_size=self.trial.image_size,
            global_batch=self.recipe.global_batch,
            seed=self.trial.seed,
            shuffle_block=self.trial.shuffle_block,
            augment=self.recipe.augment,
            augmentation=Augmentation(self.recipe.policy, erasing=self.recipe.erasing),
            crop_scale=(self.trial.min_crop, 1.0),
            **shared,
        )
        val = EvalLoader(
            manifest,
            image_size=self.trial.image_size,
            resize=self.trial.eval_resize,
            batch_size=self.recipe.global_batch // self.world_size * _EVAL_BATCH_FACTOR,
            **shared,
        )
        return train, val

    def _tracker(self) -> Tracker:
        return Tracker(self.job.tracking_uri, self.job.experiment)

    def _say(self, epoch: int, report: dict[str, float]) -> None:
        print(
            f"[{self.trial.trial_id}] epoch {epoch + 1}/{self.recipe.epochs}"
            f"  loss {report['train/epoch_loss']:.4f}  val top-1 {report['val/top1']:.4f}"
            f"  {report['time/images_per_second']:.0f} images/s",
            flush=True,
        )


def _noting(batches: Iterable[Batch], corrupt: list[Corrupt]) -> Iterator[Batch]:
    """The batches, adding to `corrupt` what they list."""
    for batch in batches:
        corrupt += batch.corrupt
        yield batch


def _check_digest(manifest: Manifest, expected: str) -> None:
    if manifest.digest != expected:
        raise RuntimeError(
            f"data {manifest.location}: this node's digest {manifest.digest[:12]} is not the plan's {expected[:12]}"
        )


def _mixed_precision(device: torch.device, wanted: bool) -> tuple[torch.autocast, torch.amp.GradScaler]:
    """Autocast and gradient scaler for a device: bfloat16 where CUDA has it, float16 with scaling before Ampere."""
    enabled = wanted and device.type == "cuda"
    dtype = torch.bfloat16
    if enabled and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=enabled and dtype is torch.float16)
    return torch.autocast(device.type, dtype=dtype, enabled=enabled), scaler


def _tune_backend(device: torch.device) -> None:
    """TF32 for what stays float32, and cuDNN's search: input shapes never change within a trial."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
