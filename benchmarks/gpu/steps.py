"""Images per second of training steps: ours against timm's and torchvision's, eager and compiled, in turns."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch

from ...effnet import variant
from ...effnet.memory import estimate
from ..pairing import Ratio, rate, ratio, take_turns
from .contestant import Contest, Contestant, Mode
from .target import Target, is_chosen, missing

_MODES: tuple[Mode, ...] = ("eager", "default", "reduce-overhead")
_OURS, _TIMM, _TORCHVISION = "effnet", "timm", "torchvision"
_TURN_S, _ROUNDS = 0.5, 7
# Of the memory, for the one whose turn it is; activations take half in bfloat16.
_SHARE, _HALF = 0.6, 0.5


@dataclass(frozen=True)
class StepResult:
    """One contestant.

    Attributes:
        contestant: the network, whose it or its trainer is, and how it was compiled.
        batch: images of a step.
        images_per_second: in the median round.
        warm_up_s: until its third step had ended, with compilation.
        peak_bytes: of GPU memory that tensors held at most.
        peak_share: of the rate at which this card multiplies large bfloat16 matrices.
        ours: how many times as fast ours of the same mode is; None for ours.
    """

    contestant: str
    batch: int
    images_per_second: float
    warm_up_s: float
    peak_bytes: float
    peak_share: float
    ours: Ratio | None


def measure(target: Target, only: Sequence[str], tell: Callable[[str], None]) -> Iterator[StepResult]:
    """Measure the contestants, those of one network in turns; one that cannot run is left out and told.

    All start at once, since compilation takes longest; none is timed before all are warm. A batch has the whole
    memory: those who find none while they warm up wait for it, and give it back after each turn.

    Args:
        target: where.
        only: names, or patterns of the shell, of those to measure; empty: all.
        tell: takes lines for who waits.
    """
    peak = matrix_rate(target)
    tell(f"bfloat16 matrices: {peak / 1e12:.3g} TFLOP/s")
    chosen = [contest for contest in contests(target) if is_chosen(contest.name, only)]
    rounds = 2 if target.tiny else _ROUNDS
    with ExitStack() as stack:
        running: dict[Contest, Contestant] = {}
        for contest in chosen:
            running[contest] = Contestant(contest, max(1, len(os.sched_getaffinity(0)) // len(chosen)))
            stack.callback(running[contest].close)
        for contest, contestant in list(running.items()):
            try:
                contestant.wait()
            except RuntimeError as error:
                tell(f"left out: {error}")
                del running[contest]
        tell(f"{len(running)} contestants are warm")
        for network, group in groupby(running, lambda one: (one.variant, one.image_size)):
            yield from _take_turns({contest: running[contest] for contest in group}, peak, rounds)
            tell(f"{network[0]} at {network[1]} px: measured")


def contests(target: Target) -> list[Contest]:
    """Every contestant, with the largest power of two as batch that memory should hold."""
    libraries = [name for name in (_OURS, _TIMM, _TORCHVISION) if name == _OURS or not missing([name])]
    device = target.device.type
    if target.tiny:
        both = libraries[:2]
        return [Contest(name, "b0", 32, 2, "eager", device, trainer) for name in both for trainer in (False, True)]
    b0, b4 = _largest_batch("b0", 224, target), _largest_batch("b4", 380, target)
    found = [Contest(name, "b0", 224, b0, "eager", device) for name in libraries]
    pair = [name for name in libraries if name != _TORCHVISION]
    # What trains eagerly searches among cuDNN's algorithms; the plain loop does not.
    found.append(Contest(_OURS, "b0", 224, b0, "eager", device, trainer=True))
    # torch normalises batches by cuDNN in float16, not in bfloat16.
    found.append(Contest(_OURS, "b0", 224, b0, "eager", device, trainer=True, precision="float16"))
    found += [Contest(name, "b0", 224, b0, "default", device, trainer) for trainer in (False, True) for name in pair]
    found += [Contest(name, "b4", 380, b4, mode, device) for mode in _MODES[:2] for name in pair]
    # So small that launching the kernels takes longer than they do.
    return found + [Contest(_OURS, "b0", 64, 128, mode, device, trainer=True) for mode in _MODES]


def _largest_batch(name: str, side: int, target: Target) -> int:
    """The largest power of two whose activations fit; on a CPU 8."""
    if not target.is_cuda:
        return 8
    each = estimate(variant(name), 1, side).memory.activations * _HALF
    fitting = _SHARE * torch.cuda.get_device_properties(target.device).total_memory / each
    return 1 << max(0, int(math.log2(fitting)))


def _take_turns(running: Mapping[Contest, Contestant], peak: float, rounds: int) -> Iterator[StepResult]:
    # As many steps for all as the first takes in a second, so that rounds can be compared.
    first = next(iter(running.values()))
    steps = max(1, int(_TURN_S / first.run(1)))
    by_name = {contest.name: contest for contest in running}
    seconds = take_turns({one.name: partial(running[one].run, steps) for one in running}, rounds, warmup=1)
    for name, times in seconds.items():
        contest, contestant = by_name[name], running[by_name[name]]
        images = rate(steps * contest.batch, times)
        macs = estimate(variant(contest.variant), contest.batch, contest.image_size).cost.macs
        rival = name.replace(contest.library, _OURS, 1)
        yield StepResult(
            contestant=name,
            batch=contest.batch,
            images_per_second=images,
            warm_up_s=contestant.warm_up_s,
            peak_bytes=contestant.peak_bytes,
            # A multiply-add is two operations; the backward pass has two for each of the forward pass.
            peak_share=images * macs * 2 * 3 / peak,
            ours=ratio(seconds[rival], times) if rival != name and rival in seconds else None,
        )


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
