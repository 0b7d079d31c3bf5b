"""GPU memory: the prediction against what is taken, and what happens when there is not enough."""

from __future__ import annotations

import gc
from functools import partial

import torch

from ...effnet import EfficientNet, variant
from ...orchestration.training.collectives import lone_rank
from ...orchestration.training.micro_batch import bytes_needed
from .check import Check, require
from .jobs import make_job
from .numerics import assemble_alone, batch_of
from .target import Target

# Of the predicted bytes.
_OFF = 0.15
# Images of a step: some gigabytes of activations each.
_BATCHES = {"b0": 64, "b4": 24, "b7": 8}


def checks() -> list[Check]:
    """Prediction by variant and format, and a step that has to be halved."""
    predicted = [
        Check(f"memory/{name}/{precision}", partial(_predict, name, precision), cuda_only=True)
        for name in _BATCHES
        for precision in ("float32", "bfloat16")
    ]
    return [*predicted, Check("memory/halved-when-out", _halve, cuda_only=True)]


def _predict(name: str, precision: str, target: Target) -> str:
    batch, config = _BATCHES[name], variant(name)
    gc.collect()
    torch.cuda.init()  # type: ignore[no-untyped-call]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(target.device)
    before = torch.cuda.memory_allocated(target.device)
    network = EfficientNet(config).to(target.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    side = config.resolution
    images = torch.zeros((batch, 3, side, side), device=target.device).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=target.device)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    taken = torch.cuda.max_memory_allocated(target.device) - before
    fixed, each = bytes_needed(config, side, half=precision != "float32", checkpoint_activations=False)
    expected = fixed + batch * each
    off = taken / expected - 1
    seen = f"{taken / 2**30:.2f} GiB for {batch} images of {side} px, predicted {expected / 2**30:.2f}: {off:+.1%}"
    require(abs(off) <= _OFF, f"{seen}; at most {_OFF:.0%}")
    return seen


def _halve(target: Target) -> str:
    """The prediction believes in the whole card; three gigabytes of it are there."""
    share, allowed = 512, 3 * 2**30
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(target.device).total_memory
    job = make_job(target, "halved", {"global_batch": share, "precision": "bfloat16"}, variant="b0", image_size=224)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(target.device) + allowed) / total)
    try:
        with lone_rank():
            parts = assemble_alone(job, target.device)
            reserved = torch.cuda.memory_reserved(target.device)
            loss = parts.step(batch_of(share, 224), 0, 0).item()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    require(parts.micro_batch < share, f"{share} images at a time in {allowed / 2**30:.0f} GiB")
    require(loss == loss, "the loss is not a number")
    return f"{parts.micro_batch} of {share} images at a time in 3 GiB; {reserved / 2**20:.0f} MiB held after the probe"
