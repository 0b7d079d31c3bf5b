"""The loop that every DDP worker of a trial runs: steps, checkpoints, and once an epoch evaluation and checks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import ray.train
import torch

from ...datasets import Batch, Corrupt
from ..faults import NonFiniteLossError, TerminatedError
from ..tracking.runs import log_model
from .checkpoint import Progress
from .collectives import (
    average_buffers,
    broadcast_buffers,
    check_ranks_agree,
    evaluate,
    gather_over_ranks,
    mean_over_ranks,
)
from .epoch_totals import Tally, Totals
from .job import TrialJob
from .preemption import Vote, asked_to_leave
from .randomness import seed_step_randomness
from .schedules import learning_rate, set_learning_rate
from .worker_state import WorkerState

# Points of the step curves an epoch: enough to see a curve, few enough for a million steps.
_STEP_POINTS = 20
# Corrupt samples that the job's log names an epoch, and samples that an error names.
_LISTED = 20


def train_worker(config: dict[str, Any]) -> None:
    """Entry point of a Ray Train worker. `config` is `TrialJob.to_dict()`."""
    # Ray Train writes every report of every rank to the root logger; `logs` should show one line an epoch.
    logging.getLogger().setLevel(logging.WARNING)
    _Worker(TrialJob.from_dict(config)).run()


class _Worker:
    """One rank's place in the run."""

    def __init__(self, job: TrialJob) -> None:
        self.job, self.trial, self.recipe = job, job.trial, job.trial.recipe
        self.state = WorkerState(job, self._say)
        self.vote = Vote(self.state.world_size)

    def run(self) -> None:
        """Train the epochs that are left, then log the best model."""
        state = self.state
        try:
            for epoch in range(state.progress.epoch, self.recipe.epochs):
                tally, trained = self._train_epoch(epoch)
                self._finish_epoch(epoch, tally, trained)
            if state.rank == 0:
                state.background.wait()
                self._log_best()
        finally:
            state.background.close()

    def _train_epoch(self, epoch: int) -> tuple[Tally, Totals]:
        """What is left of an epoch's batches."""
        state, loader = self.state, self.state.train_loader
        sequence = loader.sequence
        begun = state.progress
        steps, first = sequence.batches_in(epoch), sequence.first_batch(epoch)
        steps_per_epoch = sequence.batches_per_epoch
        tally = Tally(begun, state.device, state.rank, max(1, steps // _STEP_POINTS))
        if state.rank == 0:
            tally.corrupt += state.corrupt
        state.corrupt = []
        state.train_mode()
        waited = begun.waited
        started = before = time.perf_counter()

        def position(batch: int, totals: Totals) -> None:
            state.progress = replace(
                begun,
                batch=batch,
                receipt=totals.receipt,
                samples=totals.samples,
                loss_sum=totals.loss_sum,
                interval_sum=totals.interval_sum,
                epoch_seconds=begun.epoch_seconds + time.perf_counter() - started,
                waited=waited,
            )

        for number, batch in enumerate(loader.epoch(epoch, begun.batch), start=begun.batch):
            waited += time.perf_counter() - before
            if self.vote(asked_to_leave()):
                self._leave(epoch, number, tally, position)
            step = first + number
            seed_step_randomness(self.trial.seed, step, state.rank)
            lr = learning_rate(self.recipe, step, steps_per_epoch)
            set_learning_rate(state.optimizer, lr)
            if tally.add(batch, state.step(batch, epoch, number), number, step, lr):
                self._require_finite(epoch, tally.bad_batch())
            if (step + 1) % self.job.checkpoint_steps == 0 and number + 1 < steps:
                position(number + 1, self._read(epoch, tally))
                state.checkpoint(tally.corrupt)
            before = time.perf_counter()
        totals = self._read(epoch, tally)
        position(steps, totals)
        return tally, totals

    def _read(self, epoch: int, tally: Tally) -> Totals:
        """Combine the ranks' counts, and log the new points of the step curves."""
        totals = tally.reduce()
        self._require_finite(epoch, totals.first_bad)
        self.state.log_steps(totals.points)
        return totals

    def _leave(self, epoch: int, number: int, tally: Tally, position: Callable[[int, Totals], None]) -> None:
        """Save what there is, within the grace time, and end this worker group."""
        position(number, self._read(epoch, tally))
        self.state.checkpoint(tally.corrupt)
        self.state.background.wait()
        where = f"epoch {epoch + 1}, batch {number}"
        self._say(f"asked to leave; checkpoint at {where}")
        raise TerminatedError(f"asked to leave at {where}")

    def _require_finite(self, epoch: int, bad: int | None) -> None:
        if bad is None:
            return
        state, sequence = self.state, self.state.train_loader.sequence
        ids = sequence.batch_ids(epoch, bad).tolist()
        step = sequence.first_batch(epoch) + bad
        self.state.tracker.log_text(
            self.job.run_id, "\n".join(map(str, ids)) + "\n", f"faults/step-{step}-sample-ids.txt"
        )
        listed = ", ".join(map(str, ids[:_LISTED])) + (", …" if len(ids) > _LISTED else "")
        raise NonFiniteLossError(
            f"the loss is not finite at step {step} (epoch {epoch + 1}, batch {bad}, samples {listed}); the last good "
            f"checkpoint is {state.last_checkpoint() or 'none'}; a smaller --lr, --clip-grad or float32 may help"
        )

    def _finish_epoch(self, epoch: int, tally: Tally, trained: Totals) -> None:
        """Evaluate, check that the epoch consumed what the manifest says, log, save."""
        state, sequence = self.state, self.state.train_loader.sequence
        reduce = average_buffers if self.recipe.dist_bn == "reduce" else broadcast_buffers
        for module in state.modules():
            reduce(module)
        agreeing = check_ranks_agree(state.model, epoch)
        corrupt = list(tally.corrupt)
        val = evaluate(state.evaluated, _noting(state.val_loader, corrupt), state.device, state.autocast)
        if self.job.on_corrupt == "skip":
            self._tell_corrupt(epoch, gather_over_ranks(corrupt))
        expected = sequence.receipt(epoch)
        if trained.receipt != expected:
            raise RuntimeError(
                f"epoch {epoch}: consumed samples {trained.receipt:016x}, the manifest says {expected:016x}"
            )
        done = state.progress
        wait_share = mean_over_ranks(done.waited / done.epoch_seconds, state.device)
        seconds = done.seconds + done.epoch_seconds
        better = val["top1"] > done.best_top1
        state.progress = Progress(
            epoch=epoch + 1,
            seconds=seconds,
            best_top1=float(val["top1"]) if better else done.best_top1,
            best_epoch=epoch if better else done.best_epoch,
        )
        report = {
            "epoch": float(epoch + 1),
            **{f"val/{name}": float(value) for name, value in val.items()},
            "val/best_top1": state.progress.best_top1,
            "train/epoch_loss": trained.loss_sum / sequence.batches_in(epoch),
            "train/samples": float(trained.samples),
            # Halves, because a metric is a float and holds integers only up to 2^53.
            "receipt/high": float(trained.receipt >> 32),
            "receipt/low": float(trained.receipt & 0xFFFFFFFF),
            "run/workers": float(state.world_size),
            "run/threads": float(torch.get_num_threads()),
            "run/micro_batch": float(state.micro_batch),
            "time/epoch_seconds": done.epoch_seconds,
            "time/train_seconds": seconds,
            "time/images_per_second": trained.samples / done.epoch_seconds,
            "time/data_wait_share": wait_share,
            "check/ranks_equal": float(agreeing),
        }
        state.log(epoch + 1, report)
        self._say(
            f"epoch {epoch + 1}/{self.recipe.epochs}"
            f"  loss {report['train/epoch_loss']:.4f}  val top-1 {report['val/top1']:.4f}"
            f"  {report['time/images_per_second']:.0f} images/s"
        )
        state.checkpoint([])
        # A barrier over the ranks. The checkpoint is not Ray's: see `checkpoint_store`.
        ray.train.report(report)

    def _tell_corrupt(self, epoch: int, corrupt: list[Corrupt]) -> None:
        """Count the epoch's corrupt samples in MLflow and list them there and in the log."""
        if self.state.rank != 0:
            return
        self.state.log(epoch + 1, {"data/corrupt": float(len(corrupt))})
        lines = [
            f"{entry.reason}; " + (f"replaced by sample {entry.replacement}" if entry.replacement >= 0 else "left out")
            for entry in sorted(corrupt)
        ]
        if lines:
            self.state.tracker.log_text(self.job.run_id, "\n".join(lines) + "\n", f"corrupt/epoch-{epoch + 1:03d}.txt")
        for line in lines[:_LISTED]:
            self._say(f"epoch {epoch + 1}: {line}")
        if len(lines) > _LISTED:
            self._say(f"epoch {epoch + 1}: {len(lines)} corrupt in all, see MLflow")

    def _log_best(self) -> None:
        """Log the model of the best epoch to MLflow as what it is: images in, probabilities out."""
        state = self.state
        served = state.best_served()
        # Two images: torch.export would fix a batch of one as the only size. Higher than wide, so that both stay free.
        first = next(iter(state.val_loader)).images[:2].permute(0, 2, 3, 1)
        example = torch.cat([first, first[:, :4]], dim=1).contiguous().numpy()
        log_model(self.state.tracker, self.job.run_id, served, example, state.progress.best_top1, state.facts)

    def _say(self, line: str) -> None:
        if ray.train.get_context().get_world_rank() == 0:
            print(f"[{self.trial.trial_id}] {line}", flush=True)


def _noting(batches: Iterable[Batch], corrupt: list[Corrupt]) -> Iterator[Batch]:
    """The batches, adding to `corrupt` what they list."""
    for batch in batches:
        corrupt += batch.corrupt
        yield batch
