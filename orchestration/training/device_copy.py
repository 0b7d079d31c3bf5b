"""Brings batches to the device, while it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...datasets import Batch


class DeviceCopy:
    """Copies batches to a device.

    On CUDA, from pinned memory, the copy runs on a stream of its own. The host is ahead of the device, so the next
    batch arrives while the device still computes the last step.

    Args:
        device: where the batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """The batch's images (channels last), labels and partners on the device, without waiting for them."""
        if self._stream is None:
            return self._copied(batch)
        with torch.cuda.stream(self._stream):
            copied = self._copied(batch)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in copied:
            if tensor is not None:
                # Or its memory would be given to the next copy while this step still reads it.
                tensor.record_stream(computing)
        return copied

    def _copied(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        images = batch.images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        labels = batch.labels.to(self._device, non_blocking=True)
        return images, labels, None if batch.partners is None else batch.partners.to(self._device, non_blocking=True)
