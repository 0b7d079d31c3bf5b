"""Parameters, multiply-accumulates and training memory of a network, by arithmetic on its config alone."""

from dataclasses import dataclass

from .activations import ActivationSpec, activation_spec
from .config import BlockConfig, EfficientNetConfig, StageConfig
from .padding import Padding, pads_ahead, same_padding, strided

Size = tuple[int, int]
"""Height and width in pixels."""

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class StageRow:
    """One row of the paper's table 1, after scaling, with its costs.

    Attributes:
        stage: 1 is the stem, then the stages of blocks, last the head with pooling and classifier.
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
        checkpointed_bytes: the same with activation checkpointing, at the step of the backward pass that needs most:
            the inputs of the blocks up to one and what that one keeps, with the gradients that pass through it.
        stages: the same by stage; the stages' numbers add up to the totals.
    """

    params: int
    macs: int
    activation_bytes: int
    checkpointed_bytes: int
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
    act = activation_spec(config.activation)
    blocks = config.blocks

    stem = _stem(config, act, size)
    rows = [_row(1, _stem_operator(config), size, config.scaled_stem_channels, 1, stem)]
    size = _stem_size(config, size)
    # Of the floats that a checkpointed pass holds: what stays throughout, and the most at any step.
    inputs, most = stem.kept, 0

    for number, stage in enumerate(config.stages):
        own = [block for block in blocks if block.stage == number]
        stage_size, cost = size, _Cost()
        for block in own:
            out_size, following = _down(size, block.stride), (*blocks, None)[block.index + 1]
            of_block = _block(block, act, size, config.padding, read=_reads(config, following, out_size))
            cost += of_block
            most = max(most, inputs + of_block.kept + _passing(block, size, out_size))
            inputs += block.in_channels * _area(size)
            size = out_size
        rows.append(_row(len(rows) + 1, _operator(stage), stage_size, own[-1].out_channels, len(own), cost))

    cost = _head(config, act, blocks[-1].out_channels, size)
    operator = "Conv1x1 & Pooling & FC" if config.head_channels else "Pooling & FC"
    rows.append(_row(len(rows) + 1, operator, size, config.scaled_head_channels, 1, cost))
    return Complexity(
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        checkpointed_bytes=_FLOAT_BYTES * max(most, inputs + cost.kept),
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


def _stem_operator(config: EfficientNetConfig) -> str:
    kernel = config.stem_kernel
    return f"Conv{kernel}x{kernel}" + (" & MaxPool" if config.stem_pool else "")


def _operator(stage: StageConfig) -> str:
    name = f"MBConv{stage.expand}" if stage.block == "mbconv" else "Bottleneck"
    return f"{name}, k{stage.kernel}x{stage.kernel}"


def _down(size: Size, stride: int) -> Size:
    """The size after a layer with an odd kernel, in either padding."""
    return strided(size[0], stride), strided(size[1], stride)


def _stem_size(config: EfficientNetConfig, size: Size) -> Size:
    """The size that the stem makes of an image."""
    return _down(_down(size, 2), 2) if config.stem_pool else _down(size, 2)


def _area(size: Size) -> int:
    return size[0] * size[1]


def _padded(size: Size, kernel: int, stride: int, padding: Padding) -> Size:
    """The size of the copy that a layer makes of its input to pad it; ``size`` itself where it makes none."""
    if not pads_ahead(padding, kernel, stride):
        return size
    height, width = (edge + sum(same_padding(edge, kernel, stride)) for edge in size)
    return height, width


# The cost of a layer. Every tensor that autograd keeps is counted once, by the layer that reads it; a tensor that two
# layers read is counted by the first, and `_block` and `_shortcut` say where that happens. A layer that pads ahead
# keeps its padded copy instead of its input.


def _conv(
    in_channels: int,
    out_channels: int,
    size: Size,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    padding: Padding = "symmetric",
) -> _Cost:
    weights = out_channels * (in_channels // groups) * kernel**2
    return _Cost(
        params=weights + out_channels * bias,
        macs=weights * _area(_down(size, stride)),
        kept=in_channels * _area(_padded(size, kernel, stride, padding)),
    )


def _norm(channels: int, size: Size) -> _Cost:
    return _Cost(params=2 * channels, kept=channels * _area(size))


def _act(activation: ActivationSpec, channels: int, size: Size, read: bool = True) -> _Cost:
    """``read``: whether the next layer keeps the output. An activation that reads its output keeps it itself if not."""
    kept = activation.kept + (activation.reads_output and not read)
    return _Cost(params=activation.parameters(channels), kept=kept * channels * _area(size))


def _stem(config: EfficientNetConfig, activation: ActivationSpec, size: Size) -> _Cost:
    channels, out_size = config.scaled_stem_channels, _down(size, 2)
    cost = _conv(3, channels, size, config.stem_kernel, stride=2, padding=config.padding) + _norm(channels, out_size)
    if not config.stem_pool:
        return cost + _act(activation, channels, out_size, read=_reads(config, config.blocks[0], out_size))
    pooled = _padded(out_size, 3, 2, config.padding)
    cost += _act(activation, channels, out_size, read=pooled == out_size)
    # Besides what it reads, the pooling keeps where each maximum was: integers of 8 bytes, two floats.
    return cost + _Cost(kept=channels * (_area(pooled) + 2 * _area(_stem_size(config, size))))


def _reads(config: EfficientNetConfig, block: BlockConfig | None, size: Size) -> bool:
    """Whether the block, or None for what follows the last, keeps its input as it is."""
    if block is None:
        return config.head_channels > 0  # the mean over the pixels keeps nothing
    return not _copies_input(block, size, config.padding) or (block.has_shortcut and block.stride > 1)


def _copies_input(block: BlockConfig, size: Size, padding: Padding) -> bool:
    """Whether the block's first layer is its strided convolution and pads ahead."""
    first = block.kind == "mbconv" and block.expand == 1
    return first and _padded(size, block.kernel, block.stride, padding) != size


def _block(block: BlockConfig, activation: ActivationSpec, size: Size, padding: Padding, read: bool) -> _Cost:
    """``read``: whether the next layer keeps the block's output."""
    inner, out_size = block.expanded_channels, _down(size, block.stride)
    mbconv = block.kind == "mbconv"
    cost = _Cost()
    if block.expand > 1 or not mbconv:
        unpadded = _padded(size, block.kernel, block.stride, padding) == size
        cost += _conv(block.in_channels, inner, size) + _norm(inner, size)
        cost += _act(activation, inner, size, read=unpadded)
    groups = inner if mbconv else 1
    cost += _conv(inner, inner, size, block.kernel, block.stride, groups, padding=padding)
    cost += _norm(inner, out_size) + _act(activation, inner, out_size)
    if block.squeeze_channels:
        cost += _squeeze_excitation(inner, block.squeeze_channels, activation, out_size)
    cost += _conv(inner, block.out_channels, out_size) + _norm(block.out_channels, out_size)
    if block.has_shortcut:
        cost += _shortcut(block, size, padding)
    if not mbconv:
        cost += _act(activation, block.out_channels, out_size, read)
    # The mask of stochastic depth: one number per image.
    return cost + _Cost(kept=1) if block.drop_rate else cost


def _passing(block: BlockConfig, size: Size, out_size: Size) -> int:
    """Floats of the gradients in a block's backward pass at its widest: before and after the convolution inside, and
    the output's, which waits for the shortcut."""
    widest = block.expanded_channels * (_area(size) + _area(out_size))
    return widest + (block.out_channels * _area(out_size) if block.has_shortcut else 0)


def _squeeze_excitation(channels: int, squeeze: int, activation: ActivationSpec, size: Size) -> _Cost:
    pixel = (1, 1)
    cost = _conv(channels, squeeze, pixel, bias=True) + _act(activation, squeeze, pixel)
    cost += _conv(squeeze, channels, pixel, bias=True)
    # The product keeps both factors: the features and the gate.
    return cost + _Cost(kept=channels * _area(size) + channels)


def _shortcut(block: BlockConfig, size: Size, padding: Padding) -> _Cost:
    """What a shortcut reads is the block's input, kept by the block's first convolution unless that reads a copy."""
    out_size = _down(size, block.stride)
    if block.projects:
        conv = _conv(block.in_channels, block.out_channels, size, stride=block.stride)
        return _Cost(conv.params, conv.macs) + _norm(block.out_channels, out_size)
    copied = _copies_input(block, size, padding)  # so the stride exceeds 1, and the pooling is the one that keeps it
    cost = _Cost(kept=block.in_channels * _area(size)) if copied else _Cost()
    if block.in_channels == block.out_channels:
        return cost
    conv = _conv(block.in_channels, block.out_channels, out_size)
    return cost + (conv if block.stride > 1 else _Cost(conv.params, conv.macs))


def _head(config: EfficientNetConfig, activation: ActivationSpec, in_channels: int, size: Size) -> _Cost:
    channels, cost = config.scaled_head_channels, _Cost()
    if config.head_channels:
        cost += _conv(in_channels, channels, size) + _norm(channels, size)
        cost += _act(activation, channels, size, read=False)  # the mean over the pixels keeps nothing
    # The classifier keeps its input, and dropout its mask.
    kept = channels * (2 if config.dropout else 1)
    weights = channels * config.num_classes
    return cost + _Cost(params=weights + config.num_classes, macs=weights, kept=kept)
