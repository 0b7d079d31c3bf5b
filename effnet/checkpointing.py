"""Activation checkpointing: trade compute for memory (Chen et al. 2016, arXiv:1604.06174).

The forward pass keeps only the input of a segment; the backward pass runs the segment once more, one segment at a time.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(segment: nn.Module, x: Tensor) -> Tensor:
    """Return ``segment(x)``, keeping of it only ``x`` for the backward pass.

    Gradients, random masks and BatchNorm's running statistics are those of the plain call.
    """
    if torch.compiler.is_compiling():
        # The compiler makes one graph of both passes, in which the statistics are updated once, and refuses contexts.
        return checkpoint(segment, x, use_reentrant=False)  # type: ignore[no-any-return]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_statistics(segment)

    return checkpoint(segment, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


@contextmanager
def _without_statistics(segment: nn.Module) -> Iterator[None]:
    """The second run must not count the batch again in BatchNorm's running statistics.

    They stay in use, with a momentum of 0: autograd keeps references to them, and both runs must keep alike. What is
    counted is a copy: `SyncBatchNorm` insists on a counter.
    """
    norms = [m for m in segment.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        counter = norm.num_batches_tracked
        norm.momentum, norm.num_batches_tracked = 0.0, None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
