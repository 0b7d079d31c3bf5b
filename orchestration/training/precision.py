"""Which number format the forward and backward pass compute in."""

from __future__ import annotations

import copy
import time
from typing import Literal

import torch
from torch import nn

Precision = Literal["float32", "bfloat16", "float16"]
_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# A gain that is worth a coarser number format.
_WORTH = 1.1
_MEASURED_IMAGES = 8
_MEASURED_STEPS = 3


def choose_precision(model: nn.Module, images: torch.Tensor, device: torch.device) -> tuple[Precision, str]:
    """The format that suits a device, and why.

    On CUDA bfloat16, or float16 (with gradient scaling) where the GPU lacks it. On a CPU bfloat16 if the processor has
    instructions for it and a training step of this very model turns out at least 1.1 times as fast.

    Args:
        model: on the device; it is copied before anything is tried.
        images: uint8 (N, 3, H, W) such as it will be trained on.
        device: where.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU has it"
        return "float16", "the GPU has no bfloat16"
    if not _cpu_has_bfloat16():
        return "float32", "the CPU has no bfloat16 instructions"
    images = images[:_MEASURED_IMAGES].to(device)
    plain, half = (_seconds(model, images, precision) for precision in ("float32", "bfloat16"))
    chosen: Precision = "bfloat16" if half * _WORTH <= plain else "float32"
    return chosen, f"bfloat16 is {plain / half:.2f} times as fast as float32 here"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which the forward pass runs."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "float32")


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16 gradients from vanishing; does nothing in the other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def tune_backend(device: torch.device) -> None:
    """TF32 for what stays float32, and cuDNN's search: input shapes never change within a trial."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def _cpu_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _seconds(model: nn.Module, images: torch.Tensor, precision: Precision) -> float:
    """Of the fastest of a few forward and backward passes, without touching the model or the random state."""
    trial = copy.deepcopy(model).train()
    fastest = float("inf")
    with torch.random.fork_rng(devices=[]):
        for step in range(1 + _MEASURED_STEPS):
            started = time.perf_counter()
            with autocast(precision, images.device):
                loss = trial(images).float().square().mean()
            loss.backward()
            if step:  # the first one builds what the others find
                fastest = min(fastest, time.perf_counter() - started)
    return fastest
