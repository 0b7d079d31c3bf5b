"""The building blocks of EfficientNet: every module here maps (N, C, H, W) to (N, C', H', W')."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .activations import make_activation
from .config import BlockConfig


class NormAct(NamedTuple):
    """What follows the convolutions of a model: its activation and its BatchNorm settings (torch's convention)."""

    activation: str
    bn_momentum: float
    bn_eps: float


def conv2d(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Build a convolution that maps an edge of ``n`` pixels to ``ceil(n / stride)``, for odd kernels.

    The weights follow N(0, sqrt(2 / fan_out)), the bias is 0. The fan-out of a depthwise convolution is k² as in the
    reference implementation; ``kaiming_normal_`` would forget the groups and start it far too small.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
    fan_out = kernel**2 * out_channels // groups
    nn.init.normal_(conv.weight, std=(2.0 / fan_out) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ConvNormAct(nn.Sequential):
    """Convolution, BatchNorm and, unless ``activate`` is false, the activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_act: NormAct,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, kernel, stride, groups)
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_act.bn_eps, momentum=norm_act.bn_momentum)
        if activate:
            self.act = make_activation(norm_act.activation, out_channels)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeeze_channels: int, activation: str) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = conv2d(channels, squeeze_channels, bias=True)
        self.act = make_activation(activation, squeeze_channels)
        self.expand = conv2d(squeeze_channels, channels, bias=True)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` gated, in its own shape."""
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * gate


class StochasticDepth(nn.Module):
    """In training, zero whole samples with probability ``rate`` and divide the rest by ``1 - rate``.

    The samples of a batch are dropped independently, so that the expectation equals the input (Huang et al. 2016,
    arXiv:1603.09382, and the reference implementation's ``drop_connect``). The identity in evaluation.

    Raises:
        ValueError: the rate is outside [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of stochastic depth must be in [0, 1), not {rate!r}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with some samples zeroed, in its own shape."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)
        return x * mask

    def extra_repr(self) -> str:
        """Show the rate in the model's printout."""
        return f"rate={self.rate:.4g}"


def make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build the path that carries a block's input to its output: the identity where the shape is kept.

    Elsewhere average pooling takes the stride (kernel = stride, partial windows averaged over the pixels they have, so
    that the edge is ``ceil(n / stride)`` as after the block's convolution), and a 1x1 convolution without norm changes
    the channels. It starts as the identity: the first ``min(in, out)`` channels are the pooled input's, further
    ones are 0.
    """
    steps: list[nn.Module] = []
    if stride > 1:
        steps.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
    if in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        nn.init.dirac_(conv.weight)
        steps.append(conv)
    return nn.Sequential(*steps) if steps else nn.Identity()


class MBConv(nn.Module):
    """Mobile inverted bottleneck: expand, depthwise convolution, squeeze-and-excitation, project, and the shortcut.

    Sandler et al. 2018 (arXiv:1801.04381) with the squeeze-and-excitation of Tan et al. 2019 (arXiv:1807.11626). Maps
    (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, block: BlockConfig, norm_act: NormAct) -> None:
        super().__init__()
        expanded = block.expanded_channels
        # A part that the block does not have is an Identity, so that every block reads alike and can be hooked alike.
        self.expand = ConvNormAct(block.in_channels, expanded, norm_act) if block.expand > 1 else nn.Identity()
        self.depthwise = ConvNormAct(
            expanded, expanded, norm_act, kernel=block.kernel, stride=block.stride, groups=expanded
        )
        self.se = (
            SqueezeExcitation(expanded, block.squeeze_channels, norm_act.activation)
            if block.squeeze_channels
            else nn.Identity()
        )
        self.project = ConvNormAct(expanded, block.out_channels, norm_act, activate=False)
        self.drop = StochasticDepth(block.drop_rate)
        self.shortcut = (
            make_shortcut(block.in_channels, block.out_channels, block.stride) if block.has_shortcut else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x`` of shape (N, in_channels, H, W)."""
        branch: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        if self.shortcut is None:
            return branch
        return torch.add(self.drop(branch), self.shortcut(x))
