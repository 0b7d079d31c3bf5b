"""Parameters, multiply-accumulates and training memory of a network, by arithmetic on its config alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .activations import ActivationSpec, activation_spec
from .baselines.config import BaselineConfig
from .config import EfficientNetConfig
from .costs import Complexity, Size, StageRow
from .padding import Padding, pads_ahead, same_padding, strided
from .stages import BlockConfig, StageConfig

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class _Cost:
    """Parameters, multiply-accumulates and floats of one image.

    ``kept`` is what autograd keeps for the backward pass; ``passing`` what the layer's step of it needs besides: the
    gradients of its output and of its input, and tensors for a moment. All but the last add up over layers.
    """

    params: int = 0
    macs: int = 0
    kept: int = 0
    passing: int = 0


def _total(layers: Iterable[_Cost]) -> _Cost:
    layers = list(layers)
    params, macs, kept = (sum(getattr(layer, name) for layer in layers) for name in ("params", "macs", "kept"))
    return _Cost(params, macs, kept)


def _backward_peak(layers: Sequence[_Cost]) -> int:
    """The most floats in the backward pass of layers, which runs from the last to the first and frees what was kept."""
    most = live = 0
    for layer in layers:
        live += layer.kept
        most = max(most, live + layer.passing)
    return most


def complexity(config: EfficientNetConfig | BaselineConfig, image_size: int | Size | None = None) -> Complexity:
    """Compute the complexity of ``config`` without building the model.

    Args:
        config: the architecture.
        image_size: edge, or (height, width), of the image in pixels; by default the config's resolution.

    Raises:
        ValueError: the image size is not one or two positive integers, or too small for a baseline.
    """
    size = _image_size(config.resolution if image_size is None else image_size)
    if isinstance(config, BaselineConfig):
        return config.complexity(size)
    act = activation_spec(config.activation)
    blocks = config.blocks

    stem = _stem(config, act, size)
    rows = [_row(1, _stem_operator(config), size, config.scaled_stem_channels, 1, _total(stem))]
    size = _stem_size(config, size)
    # Of the floats that a checkpointed pass holds: what stays throughout, and the most at any step.
    inputs, most = _total(stem).kept, _backward_peak(stem)

    for number, stage in enumerate(config.stages):
        own = [block for block in blocks if block.stage == number]
        stage_size, layers = size, list[_Cost]()
        for block in own:
            out_size, following = _down(size, block.stride), (*blocks, None)[block.index + 1]
            of_block = _block(block, act, size, config.padding, read=_reads(config, following, out_size))
            layers += of_block
            # The gradient of the block's output waits for the shortcut.
            waiting = block.out_channels * _area(out_size) if block.has_shortcut else 0
            most = max(most, inputs + _backward_peak(of_block) + waiting)
            inputs += block.in_channels * _area(size)
            size = out_size
        rows.append(_row(len(rows) + 1, _operator(stage), stage_size, own[-1].out_channels, len(own), _total(layers)))

    head = _head(config, act, blocks[-1].out_channels, size)
    operator = "Conv1x1 & Pooling & FC" if config.head_channels else "Pooling & FC"
    rows.append(_row(len(rows) + 1, operator, size, config.scaled_head_channels, 1, _total(head)))
    return Complexity(
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        checkpointed_bytes=_FLOAT_BYTES * max(most, inputs + _backward_peak(head)),
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
    out_area, kept = _area(_down(size, stride)), in_channels * _area(_padded(size, kernel, stride, padding))
    return _Cost(
        params=weights + out_channels * bias,
        macs=weights * out_area,
        kept=kept,
        passing=kept + out_channels * out_area,
    )


def _norm(channels: int, size: Size) -> _Cost:
    floats = channels * _area(size)
    return _Cost(params=2 * channels, kept=floats, passing=2 * floats)


def _act(activation: ActivationSpec, channels: int, size: Size, read: bool = True) -> _Cost:
    """``read``: whether the next layer keeps the output. An activation that reads its output keeps it itself if not."""
    floats = channels * _area(size)
    kept = activation.kept + (activation.reads_output and not read)
    # An output that the next layer keeps outlives that layer's step.
    passing = 2 + activation.backward + (activation.reads_output and read)
    return _Cost(params=activation.parameters(channels), kept=kept * floats, passing=passing * floats)


def _stem(config: EfficientNetConfig, activation: ActivationSpec, size: Size) -> list[_Cost]:
    channels, out_size = config.scaled_stem_channels, _down(size, 2)
    layers = [
        _conv(3, channels, size, config.stem_kernel, stride=2, padding=config.padding),
        _norm(channels, out_size),
    ]
    if not config.stem_pool:
        return [*layers, _act(activation, channels, out_size, read=_reads(config, config.blocks[0], out_size))]
    pooled, pool_size = _padded(out_size, 3, 2, config.padding), _stem_size(config, size)
    # Besides what it reads, the pooling keeps where each maximum was: integers of 8 bytes, two floats.
    kept, passing = _area(pooled) + 2 * _area(pool_size), _area(pooled) + _area(pool_size)
    return [
        *layers,
        _act(activation, channels, out_size, read=pooled == out_size),
        _Cost(kept=channels * kept, passing=channels * passing),
    ]


def _reads(config: EfficientNetConfig, block: BlockConfig | None, size: Size) -> bool:
    """Whether the block, or None for what follows the last, keeps its input as it is."""
    if block is None:
        return config.head_channels > 0  # the mean over the pixels keeps nothing
    return not _copies_input(block, size, config.padding) or (block.has_shortcut and block.stride > 1)


def _copies_input(block: BlockConfig, size: Size, padding: Padding) -> bool:
    """Whether the block's first layer is its strided convolution and pads ahead."""
    first = block.kind == "mbconv" and block.expand == 1
    return first and _padded(size, block.kernel, block.stride, padding) != size


def _block(block: BlockConfig, activation: ActivationSpec, size: Size, padding: Padding, read: bool) -> list[_Cost]:
    """``read``: whether the next layer keeps the block's output."""
    inner, out_size = block.expanded_channels, _down(size, block.stride)
    mbconv = block.kind == "mbconv"
    layers: list[_Cost] = []
    if block.expand > 1 or not mbconv:
        unpadded = _padded(size, block.kernel, block.stride, padding) == size
        layers += [_conv(block.in_channels, inner, size), _norm(inner, size)]
        layers += [_act(activation, inner, size, read=unpadded)]
    groups = inner if mbconv else 1
    layers += [_conv(inner, inner, size, block.kernel, block.stride, groups, padding=padding)]
    layers += [_norm(inner, out_size), _act(activation, inner, out_size)]
    if block.squeeze_channels:
        layers += [_squeeze_excitation(inner, block.squeeze_channels, activation, out_size)]
    layers += [_conv(inner, block.out_channels, out_size), _norm(block.out_channels, out_size)]
    if block.has_shortcut:
        layers += [_shortcut(block, size, padding)]
    if not mbconv:
        layers += [_act(activation, block.out_channels, out_size, read)]
    # The mask of stochastic depth: one number per image.
    return [*layers, _Cost(kept=1)] if block.drop_rate else layers


def _squeeze_excitation(channels: int, squeeze: int, activation: ActivationSpec, size: Size) -> _Cost:
    pixel, floats = (1, 1), channels * _area(size)
    gate = [_conv(channels, squeeze, pixel, bias=True), _act(activation, squeeze, pixel)]
    cost = _total([*gate, _conv(squeeze, channels, pixel, bias=True)])
    # The product keeps both factors: the features and the gate. The gate's gradient is the sum of a third gradient.
    return _Cost(cost.params, cost.macs, cost.kept + floats + channels, passing=3 * floats)


def _shortcut(block: BlockConfig, size: Size, padding: Padding) -> _Cost:
    """What a shortcut reads is the block's input, kept by the block's first convolution unless that reads a copy."""
    out_size = _down(size, block.stride)
    if block.projects:
        conv = _conv(block.in_channels, block.out_channels, size, stride=block.stride)
        norm = _norm(block.out_channels, out_size)
        return _Cost(conv.params + norm.params, conv.macs, norm.kept, norm.passing)
    copied = _copies_input(block, size, padding)  # so the stride exceeds 1, and the pooling is the one that keeps it
    kept = block.in_channels * _area(size) if copied else 0
    if block.in_channels == block.out_channels:
        return _Cost(kept=kept)
    conv = _conv(block.in_channels, block.out_channels, out_size)
    return _Cost(conv.params, conv.macs, kept + (conv.kept if block.stride > 1 else 0), conv.passing)


def _head(config: EfficientNetConfig, activation: ActivationSpec, in_channels: int, size: Size) -> list[_Cost]:
    channels, layers = config.scaled_head_channels, list[_Cost]()
    if config.head_channels:
        layers += [_conv(in_channels, channels, size), _norm(channels, size)]
        layers += [_act(activation, channels, size, read=False)]  # the mean over the pixels keeps nothing
    # The classifier keeps its input, and dropout its mask.
    kept = channels * (2 if config.dropout else 1)
    weights = channels * config.num_classes
    return [*layers, _Cost(params=weights + config.num_classes, macs=weights, kept=kept)]
