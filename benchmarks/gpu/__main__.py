"""`python -m effnet_cluster.benchmarks.gpu check|bench`: see the package."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .check import Check, Outcome, run_checks
from .target import TRAINER, Target, describe, is_chosen, missing

if TYPE_CHECKING:
    from .steps import StepResult

_DEVICES = {"cuda": "cuda:0", "cpu": "cpu"}
# Modules of checks, the longest first; without the packages of TRAINER they cannot be imported.
_CHECKS = ("trainings", "memory", "numerics")
_MOST_PROCESSES = 16


def make_parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(prog="python -m effnet_cluster.benchmarks.gpu", description=__doc__)
    parser.add_argument("verb", choices=("check", "bench"))
    parser.add_argument("--only", action="append", default=[], help="a name or pattern: 'memory/*', 'b4*', 'feeding'")
    parser.add_argument("--device", choices=_DEVICES, default="cuda")
    parser.add_argument("--tiny", action="store_true", help="as small as can be, to try the command itself")
    parser.add_argument("--processes", type=int, help="of `check`, side by side; by default one a core on CUDA")
    parser.add_argument("--json", type=Path, help="file that takes all that was seen")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: all that could run held; 1: a check failed, or there is no such device."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "error: torch sees no CUDA device here; --device cpu --tiny tries the command itself\n")
    with tempfile.TemporaryDirectory(prefix="effnet-gpu-") as folder:
        target = Target(torch.device(_DEVICES[options.device]), options.tiny, Path(folder))
        cores = len(os.sched_getaffinity(0))
        machine = describe(target.device) | {"cores": str(cores)}
        print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
        record = Record(options.json, {"machine": machine})
        if options.verb == "check":
            processes = options.processes or (min(cores, _MOST_PROCESSES) if target.is_cuda else 1)
            return 1 if _check(target, options.only, processes, record) else 0
        _bench(target, options.only, record)
    return 0


@dataclass
class Record:
    """What was seen so far, in a file that is whole whenever the command ends; `file` None keeps nothing."""

    file: Path | None
    found: dict[str, Any]

    def add(self, **found: Any) -> None:
        """Add or replace fields."""
        self.found |= found
        if self.file:
            self.file.write_text(json.dumps(self.found, indent=1))


def _check(target: Target, only: list[str], processes: int, record: Record) -> int:
    started = time.perf_counter()
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        record.add(checks=[asdict(each) for each in outcomes])
        print(f"{outcome.verdict:8}{outcome.seconds:6.1f} s  {outcome.name}: {outcome.seen}", flush=True)
        if outcome.trace:
            print(outcome.trace, file=sys.stderr, flush=True)

    checks: list[Check] = []
    for name in _CHECKS:
        if absent := missing(TRAINER):
            tell(Outcome(name, "skipped", f"not installed: {', '.join(absent)}", 0.0))
        else:
            checks += importlib.import_module(f"{__package__}.{name}").checks()
    chosen = [check for check in checks if is_chosen(check.name, only)]
    failed = run_checks(chosen, target, processes, tell)
    counts = {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in ("passed", "FAILED", "skipped")}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    print(f"{told} in {time.perf_counter() - started:.0f} s, {processes} side by side")
    return failed


def _bench(target: Target, only: list[str], record: Record) -> None:
    started = time.perf_counter()

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {line}", flush=True)

    from . import steps

    results: list[StepResult] = []
    for result in steps.measure(target, only, tell):
        results.append(result)
        record.add(steps=[asdict(each) for each in results])
    _print_steps(results)
    if not is_chosen("feeding", only):
        return
    if absent := missing(TRAINER):
        tell(f"skipped, not installed: feeding and phases ({', '.join(absent)})")
        return
    from . import feeding

    feeds, phases = feeding.measure(target, tell)
    record.add(feeding=[asdict(result) for result in feeds], phases=asdict(phases))
    for fed in feeds:
        tell(
            f"{fed.loader_workers} loader workers on {fed.cores} cores: {fed.images_per_second:.0f} images/s, "
            f"waited {fed.waited_share:.1%} (the host {fed.asked_share:.1%})"
        )
    for times in (phases.phases, phases.kernels):
        for name, milliseconds in times.items():
            print(f"{milliseconds:9.2f} ms  {name}")


def _print_steps(results: list[StepResult]) -> None:
    heads = f"{'images/s':>9}{'of peak':>8}{'memory':>10}{'warm-up':>9}  ours is … times as fast"
    print(f"{'contestant':42}{'batch':>6}{heads}")
    for row in results:
        print(
            f"{row.contestant:42}{row.batch:6}{row.images_per_second:9.0f}{row.peak_share:8.1%}"
            f"{row.peak_bytes / 2**30:6.1f} GiB{row.warm_up_s:7.0f} s  {row.ours or ''}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
