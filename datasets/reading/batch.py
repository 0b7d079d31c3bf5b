"""A batch as the loaders deliver it: one rank's slice of a global batch, and what it is mixed with."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

OnCorrupt = Literal["stop", "skip"]
"""What to do about a sample that cannot be decoded: stop with a DataError, or go on without it and list it."""


class Corrupt(NamedTuple):
    """A sample that could not be decoded: its position and id, why (with shard and key), and the id of the sample that
    was shown in its place; -1 in evaluation, where it is masked out."""

    position: int
    sample_id: int
    reason: str
    replacement: int


class Batch(NamedTuple):
    """One rank's slice of a global batch, N samples; in evaluation `mask` is False for padding (zeros, sample id -1).

    images: uint8 (M, 3, image_size, image_size), channels last in memory: decoders write and convolutions like that.
    labels: int64 (M,). M = N, unless `partners` says otherwise.
    sample_ids: int64 (N,), whose bytes the reader has read. positions: int64 (N,). mask: bool (N,).
    corrupt: the samples that were replaced or masked out; always empty with `on_corrupt="stop"`. `sample_ids` are those
    that were read all the same, so a receipt tells what was scheduled, and this list what was replaced in it.
    partners: int64 (N,), for mixup and CutMix: the row in `images` and `labels` that each sample is mixed with. After
    the slice's own N rows there may be one or two more, which are other ranks' samples; None: nothing is mixed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    corrupt: Sequence[Corrupt] = ()
    partners: torch.Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """How it leaves a loader worker: all but the images by value. Every tensor would take a file descriptor and a
        connection of its own, half a millisecond each."""
        small = (self.labels, self.sample_ids, self.positions, self.mask)
        partners = None if self.partners is None else self.partners.numpy()
        return _of_arrays, (self.images, *(tensor.numpy() for tensor in small), self.corrupt, partners)


def _of_arrays(
    images: torch.Tensor,
    labels: NDArray[np.int64],
    sample_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    mask: NDArray[np.bool_],
    corrupt: Sequence[Corrupt],
    partners: NDArray[np.int64] | None,
) -> Batch:
    return Batch(
        images,
        torch.from_numpy(labels),
        torch.from_numpy(sample_ids),
        torch.from_numpy(positions),
        torch.from_numpy(mask),
        corrupt,
        None if partners is None else torch.from_numpy(partners),
    )
