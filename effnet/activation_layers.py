"""Activations that torch lacks, or has in a form that keeps two tensors for the backward pass; these keep one or none.

Each works element by element on a tensor of any shape; ``Swish`` has one parameter per channel. Scripting and exporting
see plain torch operators: what is saved for a gradient is nothing that a deployed file needs. Backward passes work in
place: with checkpointed activations, their temporary tensors would be the peak of a step's memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torch.nn import functional as F


class SiLU(nn.Module):
    """x · sigmoid(x), as ``torch.nn.SiLU``; overwrites its input where no gradient will need it.

    In place under autograd it would copy the input first: the same memory, and slower. Out of place, inference takes
    1.15 times as long (B0 at 224 px on one core).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, in its shape."""
        return F.silu(x, inplace=not torch.is_grad_enabled())


class RReLU(nn.Module):
    """Leaky ReLU with slopes drawn from U(1/8, 1/3) in training and their mean in evaluation, as ``torch.nn.RReLU``.

    Evaluation says so in plain terms, because no exporter knows the random one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, in its place."""
        if self.training:
            return F.rrelu(x, 1 / 8, 1 / 3, training=True, inplace=True)
        return F.leaky_relu(x, (1 / 8 + 1 / 3) / 2, inplace=True)


class _SoftsignFunction(torch.autograd.Function):
    """The derivative 1 / (1 + |x|)² is (1 - |y|)² in the output, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.softsign(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope: Tensor = y.abs().neg_().add_(1).square_()
        return slope.mul_(gradient)


class _LogSigmoidFunction(torch.autograd.Function):
    """The derivative sigmoid(-x) is 1 - exp(y) in the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # torch's kernel copies what is not contiguous, and its output would no longer be channels last.
        turned = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        y = F.logsigmoid(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if turned else F.logsigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope: Tensor = y.expm1().neg_()
        return slope.mul_(gradient)


class _SwishFunction(torch.autograd.Function):
    """x · sigmoid(βx): autograd would keep x and the gate; the gate is computed again instead."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, beta)
        return _swish(x, beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, beta = ctx.saved_tensors
        gate = (x * beta).sigmoid_()
        slope = (1 - gate).mul_(gate).mul_(x)  # of x · gate, but for a factor: β for x, x for β
        for_beta = (gradient * slope).mul_(x).sum_to_size(beta.shape)
        return slope.mul_(beta).add_(gate).mul_(gradient), for_beta


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(x * beta)


class Softsign(nn.Module):
    """x / (1 + abs(x)), as ``torch.nn.Softsign``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, in its shape."""
        if is_scripting() or not self.training:
            return F.softsign(x)
        kept: Tensor = _softsign(x)
        return kept


class LogSigmoid(nn.Module):
    """log(sigmoid(x)), as ``torch.nn.LogSigmoid``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``, in its shape."""
        if is_scripting() or not self.training:
            return F.logsigmoid(x)
        kept: Tensor = _logsigmoid(x)
        return kept


class Swish(nn.Module):
    """x · sigmoid(βx) with one learned β per channel; at its first value 1 it is SiLU (Ramachandran et al. 2017).

    arXiv:1710.05941, section 5; the paper's own Swish has β fixed to 1.
    """

    def __init__(self, num_parameters: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(num_parameters))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x`` of shape (N, channels, H, W)."""
        # In the input's type: under autocast a float32 factor would turn everything after it into float32.
        beta = self.beta.to(x.dtype).view(-1, 1, 1)
        if is_scripting() or not self.training:
            return _swish(x, beta)
        kept: Tensor = _learned_swish(x, beta)
        return kept


# Behind functions that the script compiler does not enter.
@torch.jit.ignore  # type: ignore[untyped-decorator]
def _softsign(x: Tensor) -> Tensor:
    return _SoftsignFunction.apply(x)  # type: ignore[no-any-return]


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _logsigmoid(x: Tensor) -> Tensor:
    return _LogSigmoidFunction.apply(x)  # type: ignore[no-any-return]


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _learned_swish(x: Tensor, beta: Tensor) -> Tensor:
    return _SwishFunction.apply(x, beta)  # type: ignore[no-any-return]
