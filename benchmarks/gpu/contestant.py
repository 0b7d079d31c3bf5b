"""Contestants of the training step, each in a process: they compile side by side and take turns on the device.

`python -m …gpu.contestant CONTEST` builds what it is told, warms up, and prints what that took. Then it reads numbers
of steps, a line each, and answers with the seconds that they took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

Mode = Literal["eager", "default", "reduce-overhead"]
_WARM_UP = 3
# In which a contestant waits for memory that the others' warm-up takes.
_PATIENCE_S = 400.0
_SHOWN: dict[str, str] = {"default": "compiled"}


@dataclass(frozen=True)
class Contest:
    """A contestant's task.

    Attributes:
        library: whose network, and in a trainer's step whose trainer: ``effnet``, ``timm`` or ``torchvision``.
        variant: such as ``b0``.
        image_size: edge in pixels.
        batch: images of a step.
        mode: of torch.compile, or ``eager``.
        device: ``cuda`` or ``cpu``.
        trainer: whether the library's own training step is taken, with normalisation, label smoothing and average.
            Otherwise the same plain loop for all.
        precision: of our trainer's step on a GPU.
    """

    library: str
    variant: str
    image_size: int
    batch: int
    mode: Mode
    device: str
    trainer: bool = False
    precision: Literal["bfloat16", "float16"] = "bfloat16"

    @property
    def name(self) -> str:
        """Tells it from all others."""
        whose = f"{self.library} trainer" if self.trainer else self.library
        format_ = "" if self.precision == "bfloat16" else f", {self.precision}"
        return f"{self.variant} {self.image_size} px: {whose}, {_SHOWN.get(self.mode, self.mode)}{format_}"


class Contestant:
    """A contestant's process, from the outside.

    Args:
        contest: its task.
        compile_threads: processes that the compiler may use besides.
    """

    def __init__(self, contest: Contest, compile_threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "effnet_cluster.benchmarks.gpu.contestant", json.dumps(asdict(contest))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(compile_threads)},
        )
        self.warm_up_s = self.peak_bytes = 0.0
        self._contest = contest

    def wait(self) -> None:
        """Return once it is warm.

        Raises:
            RuntimeError: it failed; its errors are on standard error.
        """
        self.warm_up_s, self.peak_bytes = self._answer()

    def run(self, steps: int) -> float:
        """Seconds of so many steps.

        Raises:
            RuntimeError: it failed; its errors are on standard error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._answer()[0])

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        # Libraries print too.
        for line in self._process.stdout:
            if line.startswith("answer "):
                return list(map(float, line.split()[1:]))
        raise RuntimeError(f"{self._contest.name}: exit {self._process.wait()}")


def make_step(contest: Contest) -> Callable[[], object]:
    """One training step that need not have ended on the device when it returns."""
    from ..model import ModelBench, libraries, training_step

    network = libraries()[contest.library](contest.variant)
    if contest.trainer:
        return (_our_trainer if contest.library == "effnet" else _timms_trainer)(network, contest)
    _compile(network, contest)
    dtype = "bfloat16" if contest.device == "cuda" else "float32"
    return training_step(network, contest.batch, ModelBench(contest.image_size, device=contest.device, dtype=dtype))


def _compile(network: nn.Module, contest: Contest) -> None:
    if contest.mode != "eager":
        network.compile(mode=contest.mode)


_DECAY, _SMOOTHING = 0.9999, 0.1


def _our_trainer(network: nn.Module, contest: Contest) -> Callable[[], object]:
    import torch

    from ...orchestration.training.classifier import NormalizedModel
    from ...orchestration.training.ema import Ema
    from ...orchestration.training.precision import autocast, gradient_scaler, tune_backend
    from ...orchestration.training.train_step import TrainStep

    device = torch.device(contest.device)
    tune_backend(device, deterministic=False)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    model = NormalizedModel(network).to(device)
    _compile(model, contest)
    step = TrainStep(
        model,
        torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.02, fused=True),
        torch.nn.CrossEntropyLoss(label_smoothing=_SMOOTHING),
        autocast(contest.precision, device),
        gradient_scaler(contest.precision, device),
        contest.batch,
        ema=Ema(network, _DECAY),
    )
    images, labels = _batch(contest)
    return lambda: step(images, labels)


def _timms_trainer(network: nn.Module, contest: Contest) -> Callable[[], object]:
    """The parts of timm's train.py: normalisation as its loader's, its optimizer's groups, its loss and its average."""
    import torch
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    from ...orchestration.training.normalization import IMAGENET

    device = torch.device(contest.device)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-4, weight_decay=0.02)
    average = ModelEmaV3(network, decay=_DECAY)
    _compile(network, contest)
    loss = LabelSmoothingCrossEntropy(smoothing=_SMOOTHING)
    mean, std = (torch.tensor([255 * value for value in values], device=device).view(1, 3, 1, 1) for values in IMAGENET)
    images, labels = _batch(contest)

    def step() -> None:
        inputs = images.float().sub_(mean).div_(std)
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(network(inputs), labels)
        value.backward()
        optimizer.step()
        average.update(network)
        optimizer.zero_grad()

    return step


def _batch(contest: Contest) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    side = contest.image_size
    images = torch.randint(0, 256, (contest.batch, 3, side, side), dtype=torch.uint8, device=contest.device)
    return images.to(memory_format=torch.channels_last), torch.arange(contest.batch, device=contest.device)


def main() -> None:
    """The process of one contestant."""
    import torch

    contest = Contest(**json.loads(sys.argv[1]))
    on_gpu = contest.device == "cuda"
    started = time.perf_counter()
    step = make_step(contest)

    def run(steps: int) -> float:
        """Seconds of `steps` steps after one that takes the memory; at the end the others have it."""
        step()
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if on_gpu:
            torch.cuda.empty_cache()
        return seconds

    while not finds_memory(lambda: run(_WARM_UP - 1)):
        if time.perf_counter() - started > _PATIENCE_S:
            sys.exit(f"{contest.name}: no memory in {_PATIENCE_S:.0f} s")
        torch.cuda.empty_cache()
        time.sleep(1.0)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    print("answer", time.perf_counter() - started, peak, flush=True)
    for line in sys.stdin:
        print("answer", run(int(line)), flush=True)


def finds_memory(run: Callable[[], object]) -> bool:
    """Whether `run` came to its end. If memory ran out, what it had is free again on return."""
    import torch

    try:
        run()
    except torch.OutOfMemoryError:
        return False
    return True


if __name__ == "__main__":
    main()
