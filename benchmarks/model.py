"""Training step and inference of our networks against timm's and torchvision's, in one run.

The same memory format, type, threads, batch and optimizer for all; random weights, random images. The command
`effnet-cluster bench model` prints the table.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .pairing import Progress, Ratio, rate, ratio, take_turns

if TYPE_CHECKING:
    import torch
    from torch import nn

OURS = "effnet"
TASKS = ("train", "infer")
# Images per step: a tenth of a second to a second of work on two cores.
_BATCHES = {"b0": 8, "b1": 8, "b2": 4, "b3": 4, "b4": 4, "b5": 2, "b6": 1, "b7": 1}


@dataclass(frozen=True)
class ModelBench:
    """What all contestants share.

    Attributes:
        image_size: edge in pixels.
        batch: images per step; by default it depends on the variant.
        rounds: measured rounds at most.
        budget_s: seconds of each variant and task after which no further round begins.
        threads: of torch on the CPU; by default torch's own choice.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, or ``bfloat16`` for autocast.
        channels_last: memory format; the other is torch's default.
    """

    image_size: int = 224
    batch: int | None = None
    rounds: int = 15
    threads: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = True
    budget_s: float = math.inf


@dataclass(frozen=True)
class ModelBenchResult:
    """One row: images per second of every library, and how many times as fast as each other one ours is."""

    variant: str
    task: str
    batch: int
    rates: dict[str, float]
    ratios: dict[str, Ratio]


def measure(
    variants: tuple[str, ...] = ("b0", "b4"),
    settings: ModelBench | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Iterator[ModelBenchResult]:
    """Yield a result for every variant and task; libraries that are not installed are left out.

    Args:
        variants: names from b0 to b7.
        settings: what all contestants share.
        progress: told of every contestant's turn.

    Raises:
        ValueError: a variant is none of b0 to b7.
    """
    import torch

    settings = settings or ModelBench()
    unknown = [name for name in variants if name not in _BATCHES]
    if unknown:
        raise ValueError(f"unknown variant '{unknown[0]}'; this benchmark has {', '.join(_BATCHES)}")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    for name in variants:
        batch = settings.batch or _BATCHES[name]
        for task in TASKS:
            calls = {library: _call(build(name), task, batch, settings) for library, build in libraries().items()}

            def turns(done: int, total: int, library: str, what: str = f"{name} {task}") -> None:
                progress(done, total, f"{what}: {library}")

            seconds = take_turns(calls, settings.rounds, warmup=3, budget_s=settings.budget_s, progress=turns)
            yield ModelBenchResult(
                name,
                task,
                batch,
                {library: rate(batch, times) for library, times in seconds.items()},
                {library: ratio(seconds[OURS], times) for library, times in seconds.items() if library != OURS},
            )
            del calls
            gc.collect()


def libraries() -> dict[str, Callable[[str], nn.Module]]:
    """Builders of the same network, dropout 0.2 and stochastic depth 0.2 in all."""
    import torchvision
    from torch.nn import BatchNorm2d

    from ..effnet import EfficientNet, variant

    found: dict[str, Callable[[str], nn.Module]] = {
        OURS: lambda name: EfficientNet(variant(name, norm="torch", dropout=0.2))
    }
    try:
        import timm

        found["timm"] = lambda name: timm.create_model(f"efficientnet_{name}", drop_rate=0.2, drop_path_rate=0.2)
    except ImportError:
        pass

    def torchvisions(name: str) -> Any:
        return getattr(torchvision.models, f"efficientnet_{name}")(dropout=0.2, norm_layer=BatchNorm2d)

    found["torchvision"] = torchvisions
    return found


def _call(model: nn.Module, task: str, batch: int, settings: ModelBench) -> Callable[[], None]:
    """One step of ``task``, finished when it returns."""
    import torch

    device = torch.device(settings.device)
    step = (inference if task == "infer" else training_step)(model, batch, settings)

    def finished() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return finished


def inference(model: nn.Module, batch: int, settings: ModelBench) -> Callable[[], None]:
    """A forward pass of random images in evaluation; on a GPU it may not have ended when it returns."""
    import torch

    model, images, _, half = _prepared(model.eval(), batch, settings)

    def infer() -> None:
        with torch.inference_mode(), half:
            model(images)

    return infer


def training_step(model: nn.Module, batch: int, settings: ModelBench) -> Callable[[], None]:
    """A step of AdamW on random images; on a GPU it may not have ended when it returns."""
    import torch

    model, images, labels, half = _prepared(model.train(), batch, settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return train


def _prepared(
    model: nn.Module, batch: int, settings: ModelBench
) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.autocast]:
    """The model on its device, images and labels for it, and the context of its forward pass."""
    import torch

    device = torch.device(settings.device)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)
    images = torch.randn(batch, 3, settings.image_size, settings.image_size, device=device).to(memory_format=layout)
    labels = torch.arange(batch, device=device)
    return model, images, labels, torch.autocast(device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16")
