"""What other libraries call the parts of these networks; no torch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from .config import EfficientNetConfig
from .stages import BlockConfig
from .validation import check_choice

Source = Literal["effnet", "torchvision", "timm", "efficientnet_pytorch"]
SOURCES: tuple[Source, ...] = get_args(Source)
"""Whose names a state dict has.

``effnet``: ours. ``torchvision``: its EfficientNet, MobileNetV2 and ResNet. ``timm``: the same, and EfficientNet-Lite.
``efficientnet_pytorch``: lukemelas/EfficientNet-PyTorch and its fork for EfficientNet-Lite.
"""

Names = dict[str, str]
"""Our name of a module with parameters → the other library's."""


def module_names(config: EfficientNetConfig, source: Source) -> Names:
    """Return the names that ``source`` gives to the modules of ``config``; those it does not know are absent.

    Raises:
        ValueError: the source is unknown, is ours, or has no such network.
    """
    check_choice("source", source, [name for name in SOURCES if name != "effnet"])
    kinds = {stage.block for stage in config.stages}
    if len(kinds) > 1:
        raise ValueError(f"{source} has no network with {' and '.join(sorted(kinds))} blocks")
    if kinds == {"bottleneck"}:
        if source == "efficientnet_pytorch":
            raise ValueError(f"{source} has no network with bottleneck blocks")
        return _resnet(config)
    if source == "torchvision" and not config.se_ratio:
        return _torchvision_mobilenetv2(config)
    return _MBCONV_LAYOUTS[source](config)


def _named(config: EfficientNetConfig, ends: Names, block_names: Callable[[BlockConfig], Names], prefix: str) -> Names:
    """Put together the names outside the blocks and those of every block.

    Args:
        config: the network.
        ends: our modules outside the blocks → theirs.
        block_names: our modules within a block → theirs within it.
        prefix: their name of a block, where ``stage``, ``position`` (in the stage) and ``index`` (in the model) stand
            for numbers from 0 and ``stage_1`` and ``index_1`` for the same from 1.
    """
    names = dict(ends)
    starts = {block.stage: block.index for block in reversed(config.blocks)}
    for block in config.blocks:
        position = block.index - starts[block.stage]
        theirs = prefix.format(
            stage=block.stage, stage_1=block.stage + 1, position=position, index=block.index, index_1=block.index + 1
        )
        for our_part, their_part in block_names(block).items():
            names[f"stages.{block.stage}.{position}.{our_part}"] = f"{theirs}.{their_part}"
    return names


def _conv_norm(ours: str, conv: str, norm: str) -> Names:
    return {f"{ours}.conv": conv, f"{ours}.norm": norm}


def _parts(block: BlockConfig) -> list[str]:
    """The parts of an mbconv in order."""
    parts = {"expand": block.expand > 1, "depthwise": True, "se": block.squeeze_channels > 0, "project": True}
    return [part for part, present in parts.items() if present]


def _torchvision_ends(last: int) -> Names:
    return {
        **_conv_norm("stem", "features.0.0", "features.0.1"),
        **_conv_norm("head", f"features.{last}.0", f"features.{last}.1"),
        "classifier": "classifier.1",
    }


def _torchvision_efficientnet(config: EfficientNetConfig) -> Names:
    def block_names(block: BlockConfig) -> Names:
        names: Names = {}
        for number, part in enumerate(_parts(block)):
            if part == "se":
                names |= {"se.reduce": f"{number}.fc1", "se.expand": f"{number}.fc2"}
            else:
                names |= _conv_norm(part, f"{number}.0", f"{number}.1")
        return names

    ends = _torchvision_ends(len(config.stages) + 1)
    return _named(config, ends, block_names, "features.{stage_1}.{position}.block")


def _torchvision_mobilenetv2(config: EfficientNetConfig) -> Names:
    def block_names(block: BlockConfig) -> Names:
        *inner, last = _parts(block)
        names: Names = {}
        for number, part in enumerate(inner):
            names |= _conv_norm(part, f"{number}.0", f"{number}.1")
        return names | _conv_norm(last, f"{len(inner)}", f"{len(inner) + 1}")  # not grouped: it has no activation

    return _named(config, _torchvision_ends(len(config.blocks) + 1), block_names, "features.{index_1}.conv")


def _timm(config: EfficientNetConfig) -> Names:
    def block_names(block: BlockConfig) -> Names:
        if block.expand > 1:
            names = _conv_norm("expand", "conv_pw", "bn1")
            names |= _conv_norm("depthwise", "conv_dw", "bn2") | _conv_norm("project", "conv_pwl", "bn3")
        else:
            names = _conv_norm("depthwise", "conv_dw", "bn1") | _conv_norm("project", "conv_pw", "bn2")
        return names | {"se.reduce": "se.conv_reduce", "se.expand": "se.conv_expand"}

    ends = _conv_norm("stem", "conv_stem", "bn1") | _conv_norm("head", "conv_head", "bn2")
    return _named(config, ends | {"classifier": "classifier"}, block_names, "blocks.{stage}.{position}")


def _efficientnet_pytorch(config: EfficientNetConfig) -> Names:
    def block_names(block: BlockConfig) -> Names:
        return {
            **_conv_norm("expand", "_expand_conv", "_bn0"),
            **_conv_norm("depthwise", "_depthwise_conv", "_bn1"),
            "se.reduce": "_se_reduce",
            "se.expand": "_se_expand",
            **_conv_norm("project", "_project_conv", "_bn2"),
        }

    ends = _conv_norm("stem", "_conv_stem", "_bn0") | _conv_norm("head", "_conv_head", "_bn1")
    return _named(config, ends | {"classifier": "_fc"}, block_names, "_blocks.{index}")


def _resnet(config: EfficientNetConfig) -> Names:
    """Torchvision's and timm's, which agree."""

    def block_names(block: BlockConfig) -> Names:
        names: Names = {}
        for number, part in enumerate(("reduce", "spatial", "project"), start=1):
            names |= _conv_norm(part, f"conv{number}", f"bn{number}")
        return names | (_conv_norm("shortcut", "downsample.0", "downsample.1") if block.projects else {})

    ends = _conv_norm("stem", "conv1", "bn1") | {"classifier": "fc"}
    return _named(config, ends, block_names, "layer{stage_1}.{position}")


_MBCONV_LAYOUTS: Mapping[str, Callable[[EfficientNetConfig], Names]] = MappingProxyType(
    {"torchvision": _torchvision_efficientnet, "timm": _timm, "efficientnet_pytorch": _efficientnet_pytorch}
)
