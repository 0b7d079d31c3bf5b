"""Runs every check and says what held: passed, failed or skipped, with what was seen."""

from __future__ import annotations

import faulthandler
import fnmatch
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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


def run_checks(checks: Iterable[Check], target: Target, only: Sequence[str], tell: Callable[[Outcome], None]) -> int:
    """Run the checks in turn; returns how many failed.

    Args:
        checks: what to run.
        target: on what.
        only: names, or patterns of the shell, of those to run; empty: all.
        tell: called after each check.
    """
    failed = 0
    for check in checks:
        if only and not any(fnmatch.fnmatchcase(check.name, pattern) for pattern in only):
            continue
        outcome = _run(check, target)
        failed += outcome.verdict == "FAILED"
        tell(outcome)
    return failed


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
