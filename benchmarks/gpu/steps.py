"""Images per second of training steps: ours against timm's and torchvision's, eager and compiled, in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch

from ...effnet import variant
from ...effnet.memory import estimate
from ..pairing import Ratio, rate, ratio, take_turns
from .contestant import Contest, Contestant, Mode
from .target import Target, missing

_Contestant = tuple[str, Mode, bool]
_MODES: tuple[Mode, ...] = ("eager", "default", "reduce-overhead")
_OURS, _TIMM, _TORCHVISION = "effnet", "timm", "torchvision"
_TURN_S, _ROUNDS = 1.0, 5
# Of the memory that is free, for all contestants together; activations take half in bfloat16.
_SHARE, _HALF, _LARGEST = 0.7, 0.5, 256


@dataclass(frozen=True)
class StepResult:
    """One contestant.

    Attributes:
        variant, image_size, batch: what was trained.
        contestant: whose network or trainer, and how it was compiled.
        images_per_second: in the median round.
        warm_up_s: until its third step had ended, with compilation.
        peak_bytes: of GPU memory that tensors held at most.
        peak_share: of the rate at which this card multiplies large bfloat16 matrices.
        ours: how many times as fast ours of the same mode is; None for ours.
    """

    variant: str
    image_size: int
    batch: int
    contestant: str
    images_per_second: float
    warm_up_s: float
    peak_bytes: float
    peak_share: float
    ours: Ratio | None


def measure(target: Target, tell: Callable[[str], None]) -> list[StepResult]:
    """Measure each group of contestants; one that cannot run is left out and told."""
    peak = matrix_rate(target)
    tell(f"bfloat16 matrices: {peak / 1e12:.3g} TFLOP/s")
    results = []
    for name, side, contestants in _groups(target):
        batch = _batch(target, name, side, len(contestants))
        contests = [
            Contest(library, name, side, batch, mode, target.device.type, trainer)
            for library, mode, trainer in contestants
        ]
        results += _measure(contests, peak, tell, 2 if target.tiny else _ROUNDS)
    return results


def _groups(target: Target) -> list[tuple[str, int, list[_Contestant]]]:
    """Variant, edge of its images, and the contestants: library, mode, whether with the trainer's step."""
    libraries = [name for name in (_OURS, _TIMM, _TORCHVISION) if name == _OURS or not missing([name])]
    if target.tiny:
        return [("b0", 32, [(name, "eager", trainer) for name in libraries[:2] for trainer in (False, True)])]
    eager: list[_Contestant] = [(name, "eager", False) for name in libraries]
    pair = [name for name in libraries if name != _TORCHVISION]
    plain: list[_Contestant] = [*eager, *((name, "default", False) for name in pair)]
    trainers: list[_Contestant] = [(name, mode, True) for mode in _MODES[:2] for name in pair]
    small: list[_Contestant] = [(_OURS, mode, True) for mode in _MODES]
    return [("b0", 224, plain + trainers), ("b4", 380, plain), ("b0", 64, small)]


def _batch(target: Target, name: str, side: int, contestants: int) -> int:
    """The largest power of two with which all contestants fit side by side."""
    if not target.is_cuda:
        return 2
    free = _SHARE * torch.cuda.mem_get_info(target.device)[0] / contestants
    batch = _LARGEST
    while batch > 1 and _HALF * estimate(variant(name), batch, side).memory.activations > free:
        batch //= 2
    return batch


def _measure(contests: Sequence[Contest], peak: float, tell: Callable[[str], None], rounds: int) -> list[StepResult]:
    compile_threads = max(1, len(os.sched_getaffinity(0)) // len(contests))
    with ExitStack() as stack:
        running: dict[str, Contestant] = {}
        for contest in contests:
            contestant = Contestant(contest, compile_threads)
            stack.callback(contestant.close)
            running[contest.name] = contestant
        for name, contestant in list(running.items()):
            try:
                contestant.wait()
            except RuntimeError as error:
                tell(f"left out: {error}")
                del running[name]
        # As many steps for all as the first takes in a second, so that rounds can be compared.
        first = next(iter(running.values()))
        steps = max(1, int(_TURN_S / first.run(1)))
        calls = {name: partial(contestant.run, steps) for name, contestant in running.items()}
        seconds = take_turns(calls, rounds, warmup=1)
    by_name = {contest.name: contest for contest in contests}
    results = []
    for name, times in seconds.items():
        contest, contestant = by_name[name], running[name]
        images = rate(steps * contest.batch, times)
        macs = estimate(variant(contest.variant), contest.batch, contest.image_size).cost.macs
        rival = name.replace(contest.library, _OURS, 1)
        results.append(
            StepResult(
                contest.variant,
                contest.image_size,
                contest.batch,
                name,
                images,
                contestant.warm_up_s,
                contestant.peak_bytes,
                # A multiply-add is two operations; the backward pass has two for each of the forward pass.
                images * macs * 2 * 3 / peak,
                ratio(seconds[rival], times) if rival != name and rival in seconds else None,
            )
        )
    return results


def matrix_rate(target: Target) -> float:
    """Operations per second in products of large bfloat16 matrices of random values, the best of ten."""
    side = 8192 if target.is_cuda else 256
    left, right = (torch.randn(side, side, device=target.device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(10):
        target.synchronize()
        started = time.perf_counter()
        left @ right
        target.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best
