"""Experiments for reports, made up by rule: no trainings, no server. `python -m … 1000 FILE` times a large one."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effnet_cluster.orchestration.report.contents import Reported
from effnet_cluster.orchestration.report.report import write_report
from effnet_cluster.orchestration.tracking.histories import EpochPoint
from effnet_cluster.orchestration.tracking.records import Outcome, TrialRecord

SIZES = {"b0": (4_020_358, 8_470_000), "b1": (6_525_994, 12_700_000), "b2": (7_715_084, 16_900_000)}
BEGAN = 1_800_000_000.0


def record(name: str = "t", seed: int = 0, top1: float | None = None, **changes: Any) -> TrialRecord:
    """A completed trial of b0 that has trained two epochs, the second with this top-1."""
    found = TrialRecord(
        trial_id=name,
        run_id=f"run-{name}",
        outcome=Outcome.COMPLETED,
        reason="",
        model_uri=None,
        variant="b0",
        activation="silu",
        shortcut="residual",
        seed=seed,
        image_size=32,
        params=4_020_358,
        macs=8_470_000,
        global_batch=32,
        shuffle_block=1,
        tail="drop",
        epochs=2,
        data_digest="d" * 64,
        epochs_done=2,
        seconds=60.0,
        best_top1=top1,
        top1=top1,
        top5=None if top1 is None else min(1.0, top1 + 0.05),
    )
    return replace(found, **changes)


def points(*top1s: float, every: float = 30.0, began: float = BEGAN, **changes: Any) -> list[EpochPoint]:
    """Epochs of one worker, `every` seconds long."""
    return [
        EpochPoint(number, began + number * every, top1, 2.0 / number, 1, began, **changes)
        for number, top1 in enumerate(top1s, 1)
    ]


def reported(records: Sequence[TrialRecord], name: str = "flowers", **changes: Any) -> Reported:
    """An experiment with these trials; without histories each has one that ends at its top-1."""
    histories = {one.run_id: points(0.5, one.top1) for one in records if one.top1 is not None}
    found = Reported(name, "completed", records, histories, len(records), data_name="digits", spec_yaml="name: x\n")
    return replace(found, **changes)


def sweep(name: str, digest: str, seeds: int = 3, epochs: int = 12, swept: int = 1, shift: float = 0.0) -> Reported:
    """Three variants × two activations × so many seeds × so many learning rates, two at a time, with faults."""
    records, histories = [], {}
    free, number = [BEGAN, BEGAN + 3.0], 0
    for variant, (params, macs) in SIZES.items():
        for activation in ("silu", "relu"):
            for rate in range(swept):
                for seed in range(seeds):
                    number += 1
                    began = min(free)
                    lane = free.index(began)
                    level = 0.9 + shift - 0.03 * (activation == "relu") + 0.01 * math.log(macs / 8.47e6)
                    level += 0.006 * math.sin(7.0 * seed + number) - 0.01 * abs(rate - swept // 3)
                    every, found, at, started = 2e-6 * macs, [], began + 12.0, began + 5.0
                    stopped = number % 7 == 0
                    for epoch in range(1, (epochs // 2 if stopped else epochs) + 1):
                        if number % 6 == 0 and epoch == 5:  # a lost worker, and then one more than before
                            started, at = at + 20.0, at + 26.0
                        at += every
                        top1 = level * (1 - math.exp(-epoch / 2.5)) + 0.004 * math.sin(5.0 * epoch + number)
                        workers = 2 if number % 6 == 0 and epoch >= 5 else 1
                        loss = 2.3 * math.exp(-epoch / 3) + 0.4
                        found.append(EpochPoint(epoch, at, top1, loss, workers, started, 0, 0xABC0 + epoch * 17 + seed))
                    ended = at + 15.0
                    free[lane] = ended + 1.0
                    best = max(point.top1 or 0.0 for point in found)
                    outcome = Outcome.STOPPED if stopped else Outcome.COMPLETED
                    values = {"lr": 0.001 * 2**rate, "policy": ("none", "rand")[rate % 2]} if swept > 1 else {}
                    parts = (f"-lr{values['lr']:g}-{rate}" if values else "",)
                    trial = f"{name}-{variant}-{activation}{parts[0]}-s{seed}"
                    one = record(
                        trial,
                        seed,
                        found[-1].top1,
                        best_top1=best,
                        variant=variant,
                        activation=activation,
                        params=params,
                        macs=macs,
                        data_digest=digest,
                        outcome=outcome,
                        reason="asha: 14th of 18 at 50 % of its steps" if stopped else "",
                        epochs=epochs,
                        epochs_done=len(found),
                        seconds=every * len(found),
                        predicted_seconds=(ended - began) * (1.0 + 0.2 * math.sin(number)),
                        began=began,
                        first_step=began + 12.0,
                        ended=ended,
                        images_per_second=1500 / every,
                        swept=values,
                    )
                    records.append(one)
                    histories[one.run_id] = found
    failed = record(f"{name}-failed", 9, None, data_digest=digest, epochs_done=0, outcome=Outcome.FAILED)
    failed = replace(failed, reason="the loss is not finite at step 40", began=BEGAN + 1, ended=BEGAN + 31, seconds=0.0)
    return reported(
        [*records, failed],
        name,
        histories=histories,
        planned=len(records) + 2,
        data_name=name,
        asked={"variants": "b0, b1, b2", "activations": "silu, relu", "seeds": "0, 1, 2"},
        data={"address": name, "images": "1,438 to train on, 359 to validate with", "classes": "10: 0, 1, 2"},
        hardware={"cluster": "this machine's own Ray", "measured on": "Some CPU, 1 cores, torch 2.11"},
        settings={"variants": "b0, b1, b2", "lr": "0.004"},
        made_with={"effnet-cluster": "0.1.0"},
    )


def main(trials: int, path: Path) -> None:
    """Write a report of about so many trials of 30 epochs, and say what it took."""
    experiment = sweep("large", "a" * 64, seeds=5, epochs=30, swept=max(2, trials // 30))
    before = time.perf_counter()
    content = write_report([experiment])
    path.write_bytes(content)
    seconds, megabytes = time.perf_counter() - before, len(content) / 1e6
    print(f"{len(experiment.records):,} trials: {seconds:.1f} s, {megabytes:.1f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
