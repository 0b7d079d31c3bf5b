"""`effnet-cluster verify`: whether an experiment trained on exactly the samples that its data set says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.table import Table

from ...datasets import BadShard, Manifest, verify_shards
from ...orchestration.errors import UserError
from ...orchestration.tracking.receipts import EpochCheck, check_receipts
from ...orchestration.tracking.records import TrialRecord
from ..experiments import Experiments
from ..home import Home
from ..lifecycle import reconnect
from .console import print_data, print_json, stderr_console
from .options import experiment_argument


@dataclass(frozen=True)
class _Verdict:
    trial: str
    epochs: tuple[EpochCheck, ...]

    @property
    def bad(self) -> list[EpochCheck]:
        return [check for check in self.epochs if check.problem]

    def to_dict(self) -> dict[str, Any]:
        bad = [{"epoch": check.epoch, "problem": check.problem} for check in self.bad]
        return {"trial": self.trial, "epochs": len(self.epochs), "bad_epochs": bad}


@click.command("verify")
@experiment_argument
@click.argument("trial", required=False)
@click.option("--shards/--no-shards", default=True, show_default=True, help="Read all shards and check their sha256.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(experiment: str, trial: str | None, shards: bool, as_json: bool) -> None:
    """Verify which samples EXPERIMENT trained on.

    Recomputes from the data set what every epoch, or those of one TRIAL, had to consume, and compares.

    Exit code 1 if an epoch consumed anything else, or if the shards are no longer those that were read.
    """
    home = Home.default()
    record = reconnect(home, Experiments(home).load(experiment))
    trials = [found for found in record.tracker.trials() if trial in (None, found.trial_id)]
    if not trials:
        raise UserError(f"{experiment}: no trial {trial or ''} has started yet".replace("  ", " "))
    spec = record.request.spec
    manifest = home.open_dataset(spec.data, spec.execution.cache_limit, typed=False)
    verdicts = [_Verdict(t.trial_id, tuple(check_receipts(record.tracker, t, manifest))) for t in trials]
    bad_shards = list(verify_shards(manifest)) if shards else []
    if as_json:
        rows = [verdict.to_dict() for verdict in verdicts]
        print_json({"trials": rows, "bad_shards": [shard._asdict() for shard in bad_shards]}, indent=2)
    else:
        print_data(_table(verdicts, trials))
        _tell(verdicts, bad_shards, manifest)
    sys.exit(1 if bad_shards or any(verdict.bad for verdict in verdicts) else 0)


def _table(verdicts: Sequence[_Verdict], trials: Sequence[TrialRecord]) -> Table:
    table = Table(title="consumed samples against the manifest", title_justify="left")
    table.add_column("trial", no_wrap=True)
    for header in ("epochs", "batch", "as they should be", "outcome"):
        table.add_column(header, justify="right")
    for verdict, trial in zip(verdicts, trials, strict=True):
        good = len(verdict.epochs) - len(verdict.bad)
        table.add_row(verdict.trial, str(len(verdict.epochs)), str(trial.global_batch), str(good), trial.outcome.value)
    return table


def _tell(verdicts: Sequence[_Verdict], bad_shards: Sequence[BadShard], manifest: Manifest) -> None:
    console = stderr_console()
    for verdict in verdicts:
        for check in verdict.bad:
            line = f"error: {verdict.trial}, epoch {check.epoch}: {check.problem}"
            console.print(line, soft_wrap=True)
    last = max((len(verdict.epochs) for verdict in verdicts), default=0)
    trained = {shard.name for shard in manifest.split("train").shards}
    for shard in bad_shards:
        reach = f"; read in epochs 1 to {last}" if shard.name in trained else "; read in every evaluation"
        line = f"error: {shard.name}: {shard.problem}{reach}"
        console.print(line, soft_wrap=True)
