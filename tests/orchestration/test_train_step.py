"""A training step: how the gradients of its micro-batches add up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effnet_cluster.orchestration.training.train_step import TrainStep


class Replayed(torch.autograd.Function):
    """A product whose gradients are always written into the same memory, as a replayed CUDA graph does."""

    memory = torch.zeros(3, 2)

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        Replayed.memory.copy_(x.T @ gradients[0])
        # Another tensor of that memory each time: autograd takes over what no one else holds.
        return None, Replayed.memory.view(3, 2)


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).view(3, 2) / 10)

    def forward(self, x: Tensor) -> Tensor:
        return Replayed.apply(x, self.weight)  # type: ignore[no-any-return]


def weights_after(steps: int, micro_batch: int, *, keeps_gradients: bool) -> Tensor:
    model = Product()
    step = TrainStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        torch.autocast("cpu", enabled=False),
        torch.amp.GradScaler("cpu", enabled=False),
        micro_batch,
        keeps_gradients=keeps_gradients,
    )
    images = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        step(images, torch.arange(8) % 2)
    return model.weight.detach()


@pytest.mark.parametrize("steps", [1, 3])
def test_kept_gradients_add_up_where_replays_overwrite_theirs(steps: int) -> None:
    whole = weights_after(steps, 8, keeps_gradients=False)
    torch.testing.assert_close(weights_after(steps, 2, keeps_gradients=True), whole)
    assert not torch.allclose(weights_after(steps, 2, keeps_gradients=False), whole)
