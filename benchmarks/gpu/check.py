"""Runs every check and says what held: passed, failed or skipped, with what was seen."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .target import Target, missing

# Of a check that takes longer, standard error says where it is.
_SLOW_S = 90.0
Verdict = Literal["passed", "FAILED", "skipped"]


class CheckError(AssertionError):
    """What was seen is not what should be."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what is checked, unique.
        run: checks; returns what it saw, in a few words. Raises `CheckError` or anything else if that is wrong.
        needs: packages without which it is skipped.
        cuda_only: whether it means nothing on a CPU.
    """

    name: str
    run: Callable[[Target], str]
    needs: tuple[str, ...] = ()
    cuda_only: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a check; `trace` is the traceback of a failed one."""

    name: str
    verdict: Verdict
    seen: str
    seconds: float
    trace: str = ""


def require(condition: bool, message: str) -> None:
    """Raise CheckError with the message unless the condition holds."""
    if not condition:
        raise CheckError(message)


def run_checks(checks: Iterable[Check], target: Target, processes: int, tell: Callable[[Outcome], None]) -> int:
    """Run the checks, in turn or side by side; returns how many failed.

    Most of a check's time on a GPU is one core's: cuDNN prepares the kernels of each new shape.

    Args:
        checks: what to run, the longest first.
        target: on what.
        processes: how many run side by side, each in a process; 1: in this one.
        tell: called after each check.
    """
    failed = 0

    def count(outcome: Outcome) -> None:
        nonlocal failed
        failed += outcome.verdict == "FAILED"
        tell(outcome)

    if processes == 1:
        for check in checks:
            count(_run(check, target))
        return failed
    waiting: queue.SimpleQueue[Check] = queue.SimpleQueue()
    for check in checks:
        waiting.put(check)
    ended: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    with ThreadPoolExecutor(processes) as lanes:
        running = [lanes.submit(_lane, waiting, target, threads, ended) for _ in range(processes)]
        for _ in running:
            while outcome := ended.get():
                count(outcome)
    for lane in running:
        lane.result()  # a lane's own error is one of this program: no check is left out silently
    return failed


def _lane(
    waiting: queue.SimpleQueue[Check], target: Target, threads: int, ended: queue.SimpleQueue[Outcome | None]
) -> None:
    """Run what waits, check by check, in a process; None follows the last outcome. A process that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    pool: ProcessPoolExecutor | None = None
    try:
        while True:
            check = waiting.get_nowait()
            pool = pool or ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(threads,))
            started = time.perf_counter()
            try:
                ended.put(pool.submit(_run_apart, check, target).result())
            except BrokenProcessPool:
                seconds = time.perf_counter() - started
                ended.put(Outcome(check.name, "FAILED", "its process died; standard error may say why", seconds))
                pool = None
    except queue.Empty:
        pass
    finally:
        if pool:
            pool.shutdown()
        ended.put(None)


def _run_apart(check: Check, target: Target) -> Outcome:
    folder = target.folder / f"process-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return _run(check, replace(target, folder=folder))


def _run(check: Check, target: Target) -> Outcome:
    absent = missing(check.needs)
    if absent:
        return Outcome(check.name, "skipped", f"not installed: {', '.join(absent)}", 0.0)
    if check.cuda_only and not target.is_cuda:
        return Outcome(check.name, "skipped", "needs CUDA", 0.0)
    started = time.perf_counter()
    faulthandler.dump_traceback_later(_SLOW_S, file=2)  # the descriptor: sys.stderr may be another
    try:
        seen = check.run(target)
        target.synchronize()
    except Exception as error:  # whatever it is, the other checks go on
        seconds, trace = time.perf_counter() - started, traceback.format_exc()
        return Outcome(check.name, "FAILED", f"{type(error).__name__}: {error}", seconds, trace)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return Outcome(check.name, "passed", seen, time.perf_counter() - started)
