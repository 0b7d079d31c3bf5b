"""What one rank of a trial holds: network, average, optimizer, loaders, place in the run; and how it is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn

from ...datasets import Batch, Corrupt, Manifest, Mixing, open_dataset
from ..errors import UserError
from ..tracking.runs import MetricLog, Tracker
from ..tracking.trained import ModelFacts
from .buffers import local_buffers, set_local_buffers
from .checkpoint import Progress, check_digest, decode, encode, to_cpu
from .checkpointer import Background, CheckpointStore
from .classifier import NormalizedModel, ServedClassifier
from .collectives import broadcast_object, gather_over_ranks, smallest_over_ranks
from .data_parallel import data_parallel
from .ema import Ema
from .epoch_totals import Point
from .job import TrialJob
from .loaders import make_loaders
from .micro_batch import fitting_images, largest_divisor, memory_budget, probe
from .networks import build_network, normalization_of, set_training_mode
from .optimizers import make_optimizer
from .precision import Precision, autocast, choose_precision, gradient_scaler, tune_backend
from .train_step import TrainStep


class WorkerState:
    """Everything that a rank needs to go on, restored from the trial's latest checkpoint if there is one.

    Args:
        job: what to train.
        say: prints a line to the job's log.

    Attributes:
        progress: where training stands.
        corrupt: what the ranks listed of the epoch under way before it was interrupted.
        evaluated: the model that is evaluated, saved as best and registered: the averaged one, if the recipe averages.
        tracker: of the experiment.
        background: does what training does not wait for; rank 0 alone has anything to do.
    """

    def __init__(self, job: TrialJob, say: Callable[[str], None]) -> None:
        context = ray.train.get_context()
        self.job, self.trial, self.recipe = job, job.trial, job.trial.recipe
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self._local_workers = context.get_local_world_size()
        self.device = ray.train.torch.get_device()
        self._say = say
        tune_backend(self.device)
        self.background = Background()
        self._store = CheckpointStore(job.storage)
        self.tracker = Tracker(job.tracking_uri, job.experiment)
        self._metrics = MetricLog(self.tracker, job.run_id) if self.rank == 0 else None

        manifest = open_dataset(job.data, Path(job.cache_root), job.cache_limit)
        _check_data(manifest, job.data_digest)
        saved = self._latest()
        self._build(manifest, saved)
        self.train_loader, self.val_loader = make_loaders(
            self.trial,
            manifest,
            self.micro_batch,
            rank=self.rank,
            world_size=self.world_size,
            loader_workers=job.loader_workers,
            on_corrupt=job.on_corrupt,
        )
        if saved is not None:
            self._restore(saved)

    def _build(self, manifest: Manifest, saved: Mapping[str, Any] | None) -> None:
        """The network and all around it, with fresh weights."""
        recipe, trial = self.recipe, self.trial
        torch.manual_seed(trial.seed)  # every rank initialises alike; DDP checks and broadcasts anyway
        network: nn.Module = build_network(trial)
        if recipe.sync_bn:
            if self.device.type != "cuda":
                raise UserError("--sync-bn needs GPUs; torch has it for CUDA only")
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        normalization = normalization_of(trial)
        self.facts = ModelFacts(
            trial.model, tuple(manifest.classes), trial.image_size, trial.eval_resize, normalization
        ).to_dict()
        self.model = NormalizedModel(self.network, normalization).to(self.device)
        self.ema = Ema(self.network, recipe.ema) if recipe.ema else None
        self.evaluated = NormalizedModel(self.ema.network, normalization).to(self.device) if self.ema else self.model
        self.optimizer = make_optimizer(self.network, recipe, self.device)
        self.share = recipe.global_batch // self.world_size
        self.precision = self._choose_precision(saved)
        self.autocast = autocast(self.precision, self.device)
        self.scaler = gradient_scaler(self.precision, self.device)
        loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        undivided = self._choose_micro_batch(saved, loss)
        self._undivided_micro_batch = undivided
        self.micro_batch = largest_divisor(self.share, undivided // self.job.micro_batch_divisor)
        if recipe.compile:
            # In place: `torch.compile(model)` would put `_orig_mod.` before every key. Beneath DDP, whose own code it
            # cannot enter; the compiler splits its graph at DDP's buckets, so that reduction and backward overlap.
            self.model.compile()
        self._take_step = TrainStep(
            data_parallel(self.model, self.device),
            self.optimizer,
            loss,
            self.autocast,
            self.scaler,
            self.micro_batch,
            recipe.clip_grad,
            self.ema,
        )
        mixing = Mixing(len(manifest.classes), trial.seed, recipe.mixup, recipe.cutmix)
        self._mixing = mixing if mixing.mixup or mixing.cutmix else None
        self.progress, self.corrupt = Progress(), list[Corrupt]()

    def train_mode(self) -> None:
        """Prepare the model for training steps; a frozen backbone stays as in evaluation."""
        set_training_mode(self.model)

    def modules(self) -> tuple[nn.Module, ...]:
        """The networks whose BatchNorm statistics differ between the ranks within an epoch."""
        return (self.network, self.ema.network) if self.ema else (self.network,)

    def step(self, batch: Batch, epoch: int, number: int) -> Tensor:
        """One optimizer step; returns the loss on the device, without waiting for it."""
        images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device, non_blocking=True)
        if self._mixing:
            images, labels = self._mixing(images, labels, epoch, number)
        return self._take_step(images, labels)

    def log_steps(self, points: Sequence[Point]) -> None:
        """Log points of the step curves, before whatever checkpoint comes next."""
        if self._metrics and points:
            rows = [(point.step, {"train/loss": point.loss, "train/lr": point.lr}) for point in points]
            self.background.submit(partial(self._metrics.log_steps, rows))

    def log(self, epochs: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, likewise."""
        if self._metrics:
            self.background.submit(partial(self._metrics.log, epochs, dict(metrics)))

    def checkpoint(self, corrupt: list[Corrupt]) -> None:
        """Save the state at `progress`. A collective; the copy is made now, the file is written in the background.

        Args:
            corrupt: what this rank has listed of the epoch under way.
        """
        within = self.progress.batch > 0
        # BatchNorm's statistics belong to the rank until the epoch ends: saving must not change the training.
        buffers = gather_over_ranks([local_buffers(*self.modules()).cpu()]) if within else None
        listed = [list(entry) for entry in gather_over_ranks(corrupt)] if self.job.on_corrupt == "skip" else []
        if self.rank != 0:
            return
        self.background.wait()  # at most one copy at a time in memory
        state = to_cpu(
            {
                "spec_digest": self.job.spec_digest,
                "run_id": self.job.run_id,
                "progress": vars(self.progress),
                "facts": self.facts,
                "world_size": self.world_size,
                "precision": self.precision,
                "micro_batch": self._undivided_micro_batch,
                "model": self.network.state_dict(),
                "evaluated": self.ema.network.state_dict() if self.ema else None,
                "ema": self.ema.state_dict() if self.ema else None,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "buffers": buffers,
                "corrupt": listed,
            }
        )
        name, best = self.progress.name, self.progress.best_name
        self.background.submit(lambda: self._store.write(name, encode(state), {best} if best else set()))

    def last_checkpoint(self) -> str | None:
        """The address of the latest checkpoint, for people."""
        names = self._store.names()
        return self._store.where(names[-1]) if names else None

    def best_served(self) -> ServedClassifier:
        """The model of the best epoch as MLflow serves it, on the CPU. Rank 0 only, after all was written."""
        network, best = self.modules()[-1], self.progress.best_name
        if best is not None and best != self.progress.name:
            state = decode(self._store.read(best), self._store.where(best), self.device)
            network.load_state_dict(state["evaluated"] or state["model"])
        facts = ModelFacts.from_dict(self.facts)
        return ServedClassifier(network, facts.image_size, facts.eval_resize, facts.normalization).cpu().eval()

    def _latest(self) -> dict[str, Any] | None:
        """The latest checkpoint, the same one on every rank."""
        names = self._store.names() if self.rank == 0 else []
        name = broadcast_object(names[-1] if names else None)
        if name is None:
            return None
        where = self._store.where(name)
        state = decode(self._store.read(name), where, self.device)
        check_digest(state, self.job.spec_digest, where)
        return state

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        self.corrupt = [Corrupt(*entry) for entry in state["corrupt"]]
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        if state["buffers"] is not None:
            if len(state["buffers"]) == self.world_size:
                own = state["buffers"][self.rank]
            else:  # other ranks than these: what they meant together
                own = torch.stack(list(state["buffers"])).mean(0)
            set_local_buffers(own, *self.modules())
        at = f", batch {self.progress.batch}" if self.progress.batch else ""
        self._say(f"resumed after epoch {self.progress.epoch}{at} on {self.world_size} workers")

    def _choose_precision(self, saved: Mapping[str, Any] | None) -> Precision:
        """The recipe's, or the checkpoint's, or the one that suits the device, as rank 0 finds."""
        if self.recipe.precision != "auto":
            return self.recipe.precision
        if saved is not None:
            precision: Precision = saved["precision"]
            return precision
        found: Precision = "float32"
        if self.rank == 0:
            side = self.trial.image_size
            images = torch.zeros((min(self.share, 8), 3, side, side), dtype=torch.uint8)
            found, why = choose_precision(self.model, images.contiguous(memory_format=torch.channels_last), self.device)
            self._say(f"computing in {found}: {why}")
        return broadcast_object(found)

    def _choose_micro_batch(self, saved: Mapping[str, Any] | None, loss: nn.Module) -> int:
        """Images of one forward pass: the recipe's, the checkpoint's, or as many as fit into memory on every rank."""
        recipe = self.recipe
        if recipe.micro_batch is not None:
            return largest_divisor(self.share, recipe.micro_batch)
        if saved is not None and saved["world_size"] == self.world_size:
            return int(saved["micro_batch"])
        fitting = fitting_images(
            self.trial.model,
            self.trial.image_size,
            memory_budget(self.device, self._local_workers),
            checkpoint_activations=recipe.checkpoint_activations,
            half=self.precision != "float32",
        )
        size = largest_divisor(self.share, fitting)
        if self.device.type == "cuda":
            size = probe(partial(self._attempt, loss), self.share, size)
        size = smallest_over_ranks(size, self.device)
        if size < self.share:
            self._say(f"{self.share} images a worker in micro-batches of {size}; BatchNorm sees these alone")
        return size

    def _attempt(self, loss: nn.Module, size: int) -> None:
        """A forward and backward pass of black images that leaves no trace."""
        buffers = local_buffers(self.network)
        side = self.trial.image_size
        images = torch.zeros((size, 3, side, side), dtype=torch.uint8, device=self.device)
        with torch.random.fork_rng(devices=[self.device]), self.autocast:
            loss(self.model(images), torch.zeros(size, dtype=torch.int64, device=self.device)).backward()
        self.network.zero_grad(set_to_none=True)
        set_local_buffers(buffers, self.network)


def _check_data(manifest: Manifest, expected: str) -> None:
    if manifest.digest != expected:
        raise RuntimeError(
            f"data {manifest.location}: this node's digest {manifest.digest[:12]} is not the plan's {expected[:12]}"
        )
