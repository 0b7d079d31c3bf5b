"""The building blocks of the networks: every module here maps (N, C, H, W) to (N, C', H', W')."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import make_activation
from .padding import Padding, pads_ahead, same_padding
from .stages import BlockConfig, BlockKind


class NormAct(NamedTuple):
    """What goes with the convolutions of a model: its activation, BatchNorm settings (torch's convention), padding."""

    activation: str
    bn_momentum: float
    bn_eps: float
    padding: Padding = "symmetric"


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad (N, C, H, W) with ``value`` as TensorFlow's "SAME" would for a kernel and a stride."""
    height, width = x.shape[-2:]
    if torch.compiler.is_exporting() and stride <= kernel:
        return F.pad(x, (*_constant_sum(width, kernel, stride), *_constant_sum(height, kernel, stride)), value=value)
    pads = (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride))
    return F.pad(x, pads, value=value) if any(pads) else x


def _constant_sum(edge: int, kernel: int, stride: int) -> tuple[int, int]:
    """``same_padding`` with zeros after the last pixel that no window reaches, so that it adds ``kernel - 1`` in all.

    Exporters know an edge as a symbol. A sum that depends on it would double the formulas of sizes at every stride, and
    five strides would never be through.
    """
    before = (kernel - 1 - (edge - 1) % stride) // 2
    return before, kernel - 1 - before


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding, which depends on the size of the input; square kernels."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``input``, each edge of n pixels becoming ceil(n / stride)."""
        return super().forward(pad_same(input, self.kernel_size[0], self.stride[0]))


class MaxPool(nn.Module):
    """The maximum over 3x3 windows with stride 2: an edge of n pixels becomes ceil(n / 2)."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` pooled; padded pixels never win."""
        if pads_ahead(self.padding, kernel=3, stride=2):
            return F.max_pool2d(pad_same(x, 3, 2, value=float("-inf")), 3, 2)
        return F.max_pool2d(x, 3, 2, padding=1)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: Padding = "symmetric",
) -> nn.Conv2d:
    """Build a convolution that maps an edge of ``n`` pixels to ``ceil(n / stride)``, for odd kernels.

    The weights follow N(0, sqrt(2 / fan_out)), the bias is 0. The fan-out of a depthwise convolution is k² as in the
    reference implementation; ``kaiming_normal_`` would forget the groups and start it far too small.
    """
    # Where the two paddings are equal, torch's own is the faster: it copies nothing.
    layer, pad = (SameConv2d, 0) if pads_ahead(padding, kernel, stride) else (nn.Conv2d, kernel // 2)
    conv = layer(in_channels, out_channels, kernel, stride=stride, padding=pad, groups=groups, bias=bias)
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
        self.conv = conv2d(in_channels, out_channels, kernel, stride, groups, padding=norm_act.padding)
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_act.bn_eps, momentum=norm_act.bn_momentum)
        if activate:
            self.act = make_activation(norm_act.activation, out_channels)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeeze_channels: int, activation: str) -> None:
        super().__init__()
        self.reduce = conv2d(channels, squeeze_channels, bias=True)
        self.act = make_activation(activation, squeeze_channels)
        self.expand = conv2d(squeeze_channels, channels, bias=True)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` gated, in its own shape."""
        # Not a pooling layer, whose strided result torch.compile copies and does not fuse: two kernels more per block.
        means = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.expand(self.act(self.reduce(means))))
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


def block_shortcut(block: BlockConfig, norm_act: NormAct) -> nn.Module | None:
    """Build the shortcut of ``block``; None where it has none."""
    if block.projects:
        return ConvNormAct(block.in_channels, block.out_channels, norm_act, stride=block.stride, activate=False)
    if block.has_shortcut:
        return make_shortcut(block.in_channels, block.out_channels, block.stride)
    return None


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
        self.shortcut = block_shortcut(block, norm_act)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x`` of shape (N, in_channels, H, W)."""
        branch: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        if self.shortcut is None:
            return branch
        out: Tensor = self.drop(branch) + self.shortcut(x)
        return out


class Bottleneck(nn.Module):
    """Reduce, convolve, project, add the shortcut, activate (He et al. 2015, arXiv:1512.03385).

    The stride is in the k x k convolution, as in torchvision and in most ResNet-50s since. Maps (N, in_channels, H, W)
    to (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, block: BlockConfig, norm_act: NormAct) -> None:
        super().__init__()
        inner = block.expanded_channels
        self.reduce = ConvNormAct(block.in_channels, inner, norm_act)
        self.spatial = ConvNormAct(inner, inner, norm_act, kernel=block.kernel, stride=block.stride)
        self.project = ConvNormAct(inner, block.out_channels, norm_act, activate=False)
        self.drop = StochasticDepth(block.drop_rate)
        self.shortcut = block_shortcut(block, norm_act)
        self.act = make_activation(norm_act.activation, block.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x`` of shape (N, in_channels, H, W)."""
        branch: Tensor = self.project(self.spatial(self.reduce(x)))
        if self.shortcut is not None:
            branch = self.drop(branch) + self.shortcut(x)
        activated: Tensor = self.act(branch)
        return activated


_BLOCKS: dict[BlockKind, type[MBConv] | type[Bottleneck]] = {"mbconv": MBConv, "bottleneck": Bottleneck}


def make_block(block: BlockConfig, norm_act: NormAct) -> MBConv | Bottleneck:
    """Build the block that ``block`` describes."""
    return _BLOCKS[block.kind](block, norm_act)
