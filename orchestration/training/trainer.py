"""The training loop of one rank: steps, checkpoints, and once per epoch evaluation and checks.

It knows no launcher and no engine: whoever starts it says which rank this is, where results go and when to leave.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from ...datasets import Batch, Corrupt, Manifest, open_dataset
from . import metrics
from .affinity import stay_near
from .assembly import TrainingParts, assemble
from .background import Background
from .checkpoint import TrainingProgress
from .checkpoint_store import CheckpointStore
from .checkpointer import Checkpointer
from .collectives import average_buffers, broadcast_buffers, check_ranks_agree, evaluate, gather_over_ranks
from .epoch_report import epoch_report
from .epoch_totals import EpochTotals, Totals
from .errors import EveryRankError, NonFiniteLossError, PreemptedError, WrongSamplesError
from .gradient_norms import GradientNorms
from .job import TrainingJob
from .loaders import make_loaders
from .metrics import StepPoint
from .networks import set_training_mode
from .preemption import PreemptionConsensus
from .randomness import seed_step_randomness
from .schedules import learning_rate, set_learning_rate
from .sink import Sink
from .world import World

# Points of the step curves per epoch: enough to see a curve, few enough for a million steps.
_STEP_POINTS = 20
# Seconds between two times at which the new points are logged.
_LIVE_S = 5.0
# Corrupt samples that the log names per epoch, and samples that an error names.
_LISTED = 20
JOB_FILE = "job.json"
"""The job beside its checkpoints, with which it can be trained again without an engine."""
_log = logging.getLogger(__name__)


class Trainer:
    """One rank of a training, restored from the latest checkpoint if there is one.

    Construct and run it on all ranks at once; the default process group must be up.

    Args:
        job: what to train.
        world: this rank's place.
        sink: takes metrics and texts; used on rank 0 alone.
        report: called on all ranks after each epoch, with its metrics on each.
        should_stop: whether this rank should save and leave; asked on all ranks at the same steps, about once per
            second or, of a lone rank, at each step.

    Raises:
        UserError, DataError, OSError: the job cannot run.
        RuntimeError: the data are not those that the job was planned with.
    """

    def __init__(
        self,
        job: TrainingJob,
        world: World,
        sink: Sink,
        *,
        report: Callable[[Mapping[str, float]], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._start_up = {metrics.WORKER_AT: time.time()}
        self.job, self.trial, self.recipe, self.world = job, job.trial, job.trial.recipe, world
        self._sink, self._report, self._should_stop = sink, report, should_stop
        self._background = Background()
        store = CheckpointStore(job.storage)
        if world.rank == 0:
            store.write_beside(JOB_FILE, job.model_dump_json(indent=1).encode())
        self._checkpointer = Checkpointer(store, world, [job.digest, *job.goes_on_from], self._background)
        manifest = open_dataset(job.data, Path(job.cache_root), job.execution.cache_limit, typed=False)
        _check_data(manifest, job.data_digest)
        saved = self._checkpointer.latest()
        self.parts: TrainingParts = assemble(job, world, manifest.classes, saved)
        self._train_loader, self._val_loader = make_loaders(
            self.trial, job.execution, manifest, self.parts.micro_batch, world, self.parts.facts.interpolation
        )
        stay_near(world.device)  # not before: the number of loader processes is that of all cores
        self._sequence = self._train_loader.sequence
        self.progress, self._corrupt = TrainingProgress(), list[Corrupt]()
        if saved is not None:
            if world.rank == 0 and saved["spec_digest"] == job.digest:  # not what another trial has yet to send
                sink.restore(saved["unsent"])
            self.progress, self._corrupt = self._checkpointer.restore(saved, self.parts)
        self._consensus = PreemptionConsensus(world.size)
        # After the reduction the ranks have the same gradients.
        self._observes = job.execution.gradient_norms and world.rank == 0

    def run(self) -> None:
        """Train the epochs that are left. What the best model is logged with then lies beside the checkpoints.

        Raises:
            PreemptedError: a rank was asked to leave; there is a checkpoint.
            NonFiniteLossError: the loss became infinite or NaN.
            RanksDisagreeError, WrongSamplesError: a check of the finished epoch failed.
            DataError, OSError: data or checkpoints cannot be read or written.
        """
        try:
            try:
                self._train()
            finally:
                self._close()
        except EveryRankError:
            # Whoever started the ranks ends all of them when one has ended; so none does before rank 0 has written the
            # last checkpoint and sent what it could. A rank that is lost meanwhile tells why itself.
            with contextlib.suppress(RuntimeError):
                dist.barrier()
            raise

    def _train(self) -> None:
        for epoch in range(self.progress.epoch, self.recipe.epochs):
            totals, trained = self._train_epoch(epoch)
            self._finish_epoch(epoch, totals.corrupt, trained)
        if self.world.rank == 0:
            self._background.wait()
            # Two images: torch.export would fix a batch of one as the only size. Higher than wide: both stay free.
            first = next(iter(self._val_loader)).images[:2].permute(0, 2, 3, 1)
            self._checkpointer.keep_example(torch.cat([first, first[:, :4]], dim=1).contiguous().numpy())

    def _close(self) -> None:
        try:
            self._background.close()
        finally:
            if self.world.rank == 0:
                self._sink.close()
                self._checkpointer.keep_unsent(self._sink.unsent())

    def _train_epoch(self, epoch: int) -> tuple[EpochTotals, Totals]:
        """Train on what is left of an epoch's batches."""
        parts, sequence, begun = self.parts, self._sequence, self.progress
        steps, first = sequence.batches_in(epoch), sequence.first_batch(epoch)
        totals = EpochTotals(begun, self.world.device, self.world.rank, max(1, steps // _STEP_POINTS))
        if self.world.rank == 0:
            totals.corrupt += self._corrupt
        self._corrupt = []
        set_training_mode(parts.model)
        waited = begun.waited
        started = before = time.perf_counter()
        logged = self._consensus.seconds

        def advance(batch: int) -> Totals:
            """Combine the ranks' totals and note them as the progress before `batch`."""
            reduced = self._reduce(epoch, totals)
            self.progress = replace(
                begun,
                batch=batch,
                receipt=reduced.receipt,
                samples=reduced.samples,
                loss_sum=reduced.loss_sum,
                interval_sum=reduced.interval_sum,
                epoch_seconds=begun.epoch_seconds + time.perf_counter() - started,
                waited=waited,
            )
            return reduced

        for number, batch in enumerate(self._train_loader.epoch(epoch, begun.batch), start=begun.batch):
            waited += time.perf_counter() - before
            if self._consensus(self._should_stop):
                advance(number)
                self._leave(epoch, totals.corrupt)
            if self._consensus.seconds - logged >= _LIVE_S:
                logged = self._consensus.seconds
                self._log_steps(totals.take_points())
            step = first + number
            seed_step_randomness(self.trial.seed, step, self.world.rank)
            lr = learning_rate(self.recipe, step, sequence.batches_per_epoch)
            set_learning_rate(parts.optimizer, lr)
            norms = GradientNorms(parts.network) if number == 0 and self._observes else None
            loss = parts.step(batch, epoch, number, norms.take if norms else None)
            if norms:
                self._log_epoch(epoch + 1, norms.metrics())
            self._start_up.setdefault(metrics.FIRST_STEP_AT, time.time())
            if totals.add(batch, loss, number, step, lr):
                self._require_finite(epoch, totals.first_bad())
            if (step + 1) % self.job.execution.checkpoint_steps == 0 and number + 1 < steps:
                advance(number + 1)
                self._save(totals.corrupt)
            before = time.perf_counter()
        return totals, advance(steps)

    def _reduce(self, epoch: int, totals: EpochTotals) -> Totals:
        """Combine the ranks' counts, and log the new points of the step curves."""
        reduced = totals.reduce()
        self._require_finite(epoch, reduced.first_bad)
        self._log_steps(reduced.points)
        return reduced

    def _log_steps(self, points: list[StepPoint]) -> None:
        if points and self.world.rank == 0:
            self._sink.log_steps(points)

    def _log_epoch(self, epochs: int, values: Mapping[str, float]) -> None:
        if self.world.rank == 0:
            self._sink.log_epoch(epochs, values)

    def _save(self, corrupt: list[Corrupt]) -> None:
        listed = corrupt if self.job.execution.on_corrupt == "skip" else None
        self._checkpointer.save(self.progress, self.parts, listed, self._sink.unsent)

    def _leave(self, epoch: int, corrupt: list[Corrupt]) -> None:
        """Save what there is, within the grace time, and end this rank."""
        self._save(corrupt)
        self._background.wait()
        where = f"epoch {epoch + 1}, batch {self.progress.batch}"
        self._say(f"asked to leave; checkpoint at {where}")
        raise PreemptedError(f"asked to leave at {where}")

    def _require_finite(self, epoch: int, bad: int | None) -> None:
        """Raise on every rank alike if the loss of batch `bad` was infinite or NaN."""
        if bad is None:
            return
        ids = self._sequence.batch_ids(epoch, bad).tolist()
        step = self._sequence.first_batch(epoch) + bad
        if self.world.rank == 0:
            self._sink.log_text(f"faults/step-{step}-sample-ids.txt", "\n".join(map(str, ids)) + "\n")
        listed = ", ".join(map(str, ids[:_LISTED])) + (", …" if len(ids) > _LISTED else "")
        raise NonFiniteLossError(
            f"the loss is not finite at step {step} (epoch {epoch + 1}, batch {bad}, samples {listed}); the last good "
            f"checkpoint is {self._checkpointer.address() or 'none'}; a smaller --lr, --clip-grad or float32 may help"
        )

    def _finish_epoch(self, epoch: int, corrupt: list[Corrupt], trained: Totals) -> None:
        """Evaluate, check that the epoch consumed what the manifest says, log, save."""
        parts, done = self.parts, self.progress
        reduce = average_buffers if self.recipe.dist_bn == "reduce" else broadcast_buffers
        for network in parts.averaged_networks:
            reduce(network)
        agreeing = check_ranks_agree(parts.compared_models, epoch)
        corrupt = list(corrupt)
        val = evaluate(parts.evaluated, _noting_corrupt(self._val_loader, corrupt), self.world.device, parts.autocast)
        if self.job.execution.on_corrupt == "skip":
            self._tell_corrupt(epoch, gather_over_ranks(corrupt))
        expected = self._sequence.receipt(epoch)
        if trained.receipt != expected:
            raise WrongSamplesError(
                f"epoch {epoch}: consumed samples {trained.receipt:016x}, the manifest says {expected:016x}"
            )
        self.progress = done.next_epoch(float(val["top1"]))
        values = epoch_report(done, self.progress, trained, val, self._sequence.batches_in(epoch), self.world)
        values |= {metrics.MICRO_BATCH: float(parts.micro_batch), metrics.RANKS_EQUAL: float(agreeing)}
        values |= self._start_up
        self._log_epoch(epoch + 1, values)
        self._say(
            f"epoch {epoch + 1}/{self.recipe.epochs}"
            f"  loss {values[metrics.EPOCH_LOSS]:.4f}  val top-1 {values[metrics.TOP1]:.4f}"
            f"  {values[metrics.IMAGES_PER_SECOND]:.0f} images/s"
        )
        self._save([])
        self._report(values)

    def _tell_corrupt(self, epoch: int, corrupt: list[Corrupt]) -> None:
        """Count the epoch's corrupt samples among the metrics, and list them in a text and in the log."""
        if self.world.rank != 0:
            return
        self._log_epoch(epoch + 1, {metrics.CORRUPT: float(len(corrupt))})
        lines = [
            f"{entry.reason}; " + (f"replaced by sample {entry.replacement}" if entry.replacement >= 0 else "left out")
            for entry in sorted(corrupt)
        ]
        name = f"corrupt/epoch-{epoch + 1:03d}.txt"
        if lines:
            self._sink.log_text(name, "\n".join(lines) + "\n")
        for line in lines[:_LISTED]:
            self._say(f"epoch {epoch + 1}: {line}")
        if len(lines) > _LISTED:
            self._say(
                f"epoch {epoch + 1}: {len(lines)} corrupt in all; the text corrupt/epoch-{epoch + 1:03d}.txt lists them"
            )

    def _say(self, line: str) -> None:
        if self.world.rank == 0:
            _log.info("%s", line)


def _check_data(manifest: Manifest, expected: str) -> None:
    if manifest.digest != expected:
        raise RuntimeError(
            f"data {manifest.location}: this node's digest {manifest.digest[:12]} is not the plan's {expected[:12]}"
        )


def _noting_corrupt(batches: Iterable[Batch], corrupt: list[Corrupt]) -> Iterator[Batch]:
    """Pass the batches on, and add the corrupt samples that they list to `corrupt`."""
    for batch in batches:
        corrupt += batch.corrupt
        yield batch
