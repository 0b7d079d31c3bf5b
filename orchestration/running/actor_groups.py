"""A trial's worker groups by what Ray promises alone: Ray Train's controller runs in an actor of Ray's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig, UserCallback

from ..errors import UserError
from .train_worker import Worker, is_preempted, train_worker

# Seconds between two looks for new reports.
_POLL_S = 0.5


class Mailbox:
    """An actor between a trial's process, the controller's and the workers'."""

    def __init__(self) -> None:
        self._reports: list[dict[str, Any]] = []
        self._leaving = False

    def put(self, report: dict[str, Any]) -> None:
        """Keep the metrics of an epoch until they are taken."""
        self._reports.append(report)

    def take(self) -> list[dict[str, Any]]:
        """Return what was put since the last call."""
        taken, self._reports = self._reports, []
        return taken

    def ask_to_leave(self) -> None:
        """Note that the workers are to save and leave."""
        self._leaving = True

    def is_leaving(self) -> bool:
        """Whether the workers are to save and leave."""
        return self._leaving


class GroupsInActor:
    """The worker groups of one trial, one after the other. See `WorkerGroups`.

    Args:
        report: called with the metrics of rank 0 after each epoch.
        worker: what each worker runs.
    """

    def __init__(self, report: Callable[[dict[str, Any]], None], worker: Worker = train_worker) -> None:
        self._report, self._worker = report, worker
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()

    def fit(
        self, config: dict[str, Any], counts: tuple[int, ...], scaling_config: ScalingConfig, run_config: RunConfig
    ) -> None:
        """See `WorkerGroups`.

        Raises:
            UserError: a number of workers between the first and the last is not allowed.
            TrainingFailedError: a worker failed, or was asked to leave.
        """
        from ray.train.torch import TorchTrainer  # imports torch

        left_out = set(range(counts[0], counts[-1] + 1)) - set(counts)
        if left_out:
            raise UserError(
                f"--controller actor cannot leave out {min(left_out)} workers, which do not share the global batch "
                f"{config['job'].trial.recipe.global_batch} equally; use --controller trial, or a fixed number of "
                "workers"
            )
        run_config.callbacks = [_Put(self._mailbox)]
        trainer = TorchTrainer(
            self._worker,
            train_loop_config=config | {"is_preempted": _Asked(self._mailbox)},
            scaling_config=scaling_config,
            run_config=run_config,
        )
        ended = threading.Event()
        handing_over = threading.Thread(target=self._hand_over, args=[ended], daemon=True)
        handing_over.start()
        try:
            trainer.fit()
        finally:
            ended.set()
            handing_over.join()

    def ask_to_leave(self) -> None:
        """Make the workers save and leave, also those that are still to start."""
        ray.get(self._mailbox.ask_to_leave.remote())

    def _hand_over(self, ended: threading.Event) -> None:
        while True:
            last = ended.wait(_POLL_S)
            for report in ray.get(self._mailbox.take.remote()):
                self._report(report)
            if last:
                return


class _Put(UserCallback):  # type: ignore[misc]
    """Puts what rank 0 reports into the mailbox."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by the controller when all ranks have reported."""
        ray.get(self._mailbox.put.remote(metrics[0]))


class _Asked:
    """Whether a worker should leave: a node will go, or the trial is to end. Called on all ranks at the same steps."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def __call__(self) -> bool:
        return any([is_preempted(), ray.get(self._mailbox.is_leaving.remote())])
