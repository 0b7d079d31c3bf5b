"""Parameters, multiply-accumulates and training memory of an EfficientNet, by arithmetic on its config alone."""

from dataclasses import dataclass

from .activations import ActivationSpec, activation_spec
from .config import BlockConfig, EfficientNetConfig

Size = tuple[int, int]
"""Height and width in pixels."""

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class StageRow:
    """One row of the paper's table 1, after scaling, with its costs.

    Attributes:
        stage: 1 is the stem, then the MBConv stages, last the head with pooling and classifier.
        operator: such as ``MBConv6, k5x5``.
        resolution: height and width of the stage's input in pixels.
        channels: output channels of the stage.
        layers: number of blocks.
        params: learned parameters.
        macs: multiply-accumulates for one image.
        activation_bytes: see ``Complexity``.
    """

    stage: int
    operator: str
    resolution: Size
    channels: int
    layers: int
    params: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Complexity:
    """What one image costs.

    Attributes:
        params: learned parameters (BatchNorm's running statistics are buffers and do not count).
        macs: multiply-accumulates of the convolutions and the classifier in a forward pass of one image; about half of
            its FLOPs, and what the paper's tables call FLOPs.
        activation_bytes: bytes in float32 that autograd keeps for the backward pass of one image in eager mode: the
            inputs of convolutions, of BatchNorm and of the classifier, the image, and what activations, gates and
            dropout need. Left out are whatever does not grow with the batch (weights, gradients, optimizer, batch
            statistics), workspaces, transient buffers and the loss. About half under 16-bit autocast.
        stages: the same by stage; the stages' numbers add up to the totals.
    """

    params: int
    macs: int
    activation_bytes: int
    stages: tuple[StageRow, ...]


@dataclass(frozen=True)
class _Cost:
    """Parameters, multiply-accumulates and kept floats of one image; costs add up."""

    params: int = 0
    macs: int = 0
    kept: int = 0

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(self.params + other.params, self.macs + other.macs, self.kept + other.kept)


def complexity(config: EfficientNetConfig, image_size: int | Size | None = None) -> Complexity:
    """Compute the complexity of ``config`` without building the model.

    Args:
        config: the architecture.
        image_size: edge, or (height, width), of the image in pixels; by default the config's resolution.

    Raises:
        ValueError: the image size is not one or two positive integers.
    """
    size = _image_size(config.resolution if image_size is None else image_size)
    activation = activation_spec(config.activation)
    blocks = config.blocks

    stem_channels = config.scaled_stem_channels
    cost = _conv(3, stem_channels, size, kernel=3, stride=2) + _norm(stem_channels, _down(size, 2))
    cost += _act(activation, stem_channels, _down(size, 2))
    rows = [_row(1, "Conv3x3", size, stem_channels, 1, cost)]
    size = _down(size, 2)

    for number, stage in enumerate(config.stages):
        own = [block for block in blocks if block.stage == number]
        stage_size, cost = size, _Cost()
        for block in own:
            cost += _block(block, activation, size)
            size = _down(size, block.stride)
        operator = f"MBConv{stage.expand}, k{stage.kernel}x{stage.kernel}"
        rows.append(_row(len(rows) + 1, operator, stage_size, own[-1].out_channels, len(own), cost))

    cost = _head(config, activation, blocks[-1].out_channels, size)
    operator = "Conv1x1 & Pooling & FC"
    rows.append(_row(len(rows) + 1, operator, size, config.scaled_head_channels, 1, cost))
    return Complexity(
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        stages=tuple(rows),
    )


def _image_size(value: object) -> Size:
    match value:
        case int(edge) if edge > 0:
            return edge, edge
        case (int(height), int(width)) if height > 0 and width > 0:
            return height, width
    raise ValueError(f"image_size must be a positive integer or a pair (height, width) of them, not {value!r}")


def _row(stage: int, operator: str, resolution: Size, channels: int, layers: int, cost: _Cost) -> StageRow:
    return StageRow(stage, operator, resolution, channels, layers, cost.params, cost.macs, cost.kept * _FLOAT_BYTES)


def _down(size: Size, stride: int) -> Size:
    """The size after a convolution with an odd kernel and "same" padding."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _area(size: Size) -> int:
    return size[0] * size[1]


# The cost of a layer. Every tensor that autograd keeps is counted once, by the layer that reads it; a tensor that two
# layers read is counted by the first, and `_block` and `_head` say where that happens.


def _conv(
    in_channels: int,
    out_channels: int,
    size: Size,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> _Cost:
    weights = out_channels * (in_channels // groups) * kernel**2
    return _Cost(
        params=weights + out_channels * bias,
        macs=weights * _area(_down(size, stride)),
        kept=in_channels * _area(size),
    )


def _norm(channels: int, size: Size) -> _Cost:
    return _Cost(params=2 * channels, kept=channels * _area(size))


def _act(activation: ActivationSpec, channels: int, size: Size) -> _Cost:
    return _Cost(params=activation.parameters(channels), kept=activation.kept * channels * _area(size))


def _block(block: BlockConfig, activation: ActivationSpec, size: Size) -> _Cost:
    expanded, out_size = block.expanded_channels, _down(size, block.stride)
    cost = _Cost()
    if block.expand > 1:
        cost += _conv(block.in_channels, expanded, size) + _norm(expanded, size) + _act(activation, expanded, size)
    cost += _conv(expanded, expanded, size, block.kernel, block.stride, groups=expanded)
    cost += _norm(expanded, out_size) + _act(activation, expanded, out_size)
    if block.squeeze_channels:
        cost += _squeeze_excitation(expanded, block.squeeze_channels, activation, out_size)
    cost += _conv(expanded, block.out_channels, out_size) + _norm(block.out_channels, out_size)
    if block.has_shortcut:
        cost += _shortcut(block, out_size)
    # The mask of stochastic depth: one number an image.
    return cost + _Cost(kept=1) if block.drop_rate else cost


def _squeeze_excitation(channels: int, squeeze: int, activation: ActivationSpec, size: Size) -> _Cost:
    pixel = (1, 1)
    cost = _conv(channels, squeeze, pixel, bias=True) + _act(activation, squeeze, pixel)
    cost += _conv(squeeze, channels, pixel, bias=True)
    # The product keeps both factors: the features and the gate.
    return cost + _Cost(kept=channels * _area(size) + channels)


def _shortcut(block: BlockConfig, out_size: Size) -> _Cost:
    """The identity and the pooling cost nothing: what they read is the block's input, kept by its first convolution."""
    if block.in_channels == block.out_channels:
        return _Cost()
    conv = _conv(block.in_channels, block.out_channels, out_size)
    return conv if block.stride > 1 else _Cost(conv.params, conv.macs)


def _head(config: EfficientNetConfig, activation: ActivationSpec, in_channels: int, size: Size) -> _Cost:
    channels = config.scaled_head_channels
    cost = _conv(in_channels, channels, size) + _norm(channels, size) + _act(activation, channels, size)
    if activation.kept == 0:
        # Everywhere else the next layer keeps an activation's output; the mean over the pixels does not.
        cost += _Cost(kept=channels * _area(size))
    # The classifier keeps its input, and dropout its mask.
    kept = channels * (2 if config.dropout else 1)
    weights = channels * config.num_classes
    return cost + _Cost(params=weights + config.num_classes, macs=weights, kept=kept)
