"""Which number format the forward and backward pass compute in."""

from __future__ import annotations

import os
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]
_DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_precision(device: torch.device) -> Precision:
    """The format that suits a device: bfloat16 on CUDA, or float16 where the GPU lacks it; float32 on a CPU."""
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which the forward pass runs."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "float32")


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16 gradients from vanishing; does nothing in the other formats."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def tune_backend(device: torch.device, *, deterministic: bool) -> None:
    """TF32 for what stays float32, and cuDNN's search: input shapes never change within a trial.

    Args:
        device: of the training.
        deterministic: whether the same work gives the same bits each time. cuDNN's search, whose choice depends on
            timing, is then off.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not deterministic
        if deterministic:
            # cuBLAS reads it when this process first multiplies matrices (CUDA toolkit, "Results Reproducibility").
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # As a warning: torch refuses what it has no such kernel for, and an error would come in mid-training.
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
