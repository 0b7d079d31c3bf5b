"""`python -m effnet_cluster.benchmarks.gpu check|bench`: see the package."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .check import Check, Outcome, run_checks
from .target import TRAINER, Target, describe, missing

_DEVICES = {"cuda": "cuda:0", "cpu": "cpu"}
# Modules of checks; without the packages of TRAINER they cannot be imported.
_CHECKS = ("numerics", "memory", "trainings")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: all that could run held; 1: a check failed, or there is no such device."""
    parser = argparse.ArgumentParser(prog="python -m effnet_cluster.benchmarks.gpu", description=__doc__)
    parser.add_argument("verb", choices=("check", "bench"))
    parser.add_argument("--only", action="append", default=[], help="a name or pattern, such as 'memory/*' or 'b4*'")
    parser.add_argument("--device", choices=_DEVICES, default="cuda")
    parser.add_argument("--tiny", action="store_true", help="as small as can be, to try the command itself")
    parser.add_argument("--json", type=Path, help="file that takes all that was seen")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "error: torch sees no CUDA device here; --device cpu --tiny tries the command itself\n")
    with tempfile.TemporaryDirectory(prefix="effnet-gpu-") as folder:
        target = Target(torch.device(_DEVICES[options.device]), options.tiny, Path(folder))
        machine = describe(target.device) | {"cores": str(len(os.sched_getaffinity(0)))}
        print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
        found, failed = _check(target, options.only) if options.verb == "check" else _bench(target, options.only)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine} | found, indent=1))
    return 1 if failed else 0


def _check(target: Target, only: list[str]) -> tuple[dict[str, Any], int]:
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(f"{outcome.verdict:8}{outcome.seconds:6.1f} s  {outcome.name}: {outcome.seen}", flush=True)
        if outcome.trace:
            print(outcome.trace, file=sys.stderr, flush=True)

    checks: list[Check] = []
    for name in _CHECKS:
        if absent := missing(TRAINER):
            tell(Outcome(name, "skipped", f"not installed: {', '.join(absent)}", 0.0))
        else:
            checks += importlib.import_module(f"{__package__}.{name}").checks()
    failed = run_checks(checks, target, only, tell)
    counts = {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in ("passed", "FAILED", "skipped")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return {"checks": [asdict(outcome) for outcome in outcomes]}, failed


def _bench(target: Target, only: list[str]) -> tuple[dict[str, Any], int]:
    started = time.perf_counter()

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {line}", flush=True)

    from . import steps

    found: dict[str, Any] = {"steps": [asdict(result) for result in _told(steps.measure(target, only, tell))]}
    if only:
        return found, 0
    if absent := missing(TRAINER):
        tell(f"skipped, not installed: feeding and phases ({', '.join(absent)})")
        return found, 0
    from . import feeding

    fed, phases = feeding.measure(target, tell)
    for result in fed:
        tell(
            f"{result.loader_workers} loader workers on {result.cores} cores: {result.images_per_second:.0f} images/s, "
            f"waited {result.waited_share:.1%} (the host {result.asked_share:.1%})"
        )
    for times in (phases.phases, phases.kernels):
        for name, milliseconds in times.items():
            print(f"{milliseconds:9.2f} ms  {name}")
    return found | {"feeding": [asdict(result) for result in fed], "phases": asdict(phases)}, 0


def _told(results: list[Any]) -> list[Any]:
    heads = f"{'images/s':>9}{'of peak':>8}{'memory':>10}{'warm-up':>9}  ours is … times as fast"
    print(f"{'contestant':42}{'batch':>6}{heads}")
    for row in results:
        print(
            f"{row.contestant:42}{row.batch:6}{row.images_per_second:9.0f}{row.peak_share:8.1%}"
            f"{row.peak_bytes / 2**30:6.1f} GiB{row.warm_up_s:7.0f} s  {row.ours or ''}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    sys.exit(main())
