"""The EfficientNet architecture as frozen data: the B0 table, the variants' coefficients, the resulting blocks."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from .activations import activation_spec
from .scaling import round_channels, round_repeats
from .validation import (
    COUNT,
    FRACTION,
    ODD,
    POSITIVE,
    PROBABILITY,
    as_sequence,
    check_choice,
    check_fields,
    check_number,
)

ShortcutKind = Literal["residual", "none", "identity_conv"]
SHORTCUTS: tuple[ShortcutKind, ...] = get_args(ShortcutKind)
"""Where a block adds its input to its output.

``residual``: where the shape is kept (the paper's). ``none``: nowhere (ablation). ``identity_conv``: everywhere; where
the shape changes, average pooling takes the stride and a 1x1 convolution that starts as the identity the channels.
"""


@dataclass(frozen=True)
class StageConfig:
    """One row of the paper's table 1 before scaling: ``repeats`` MBConv blocks, of which the first has the stride.

    Raises:
        ValueError: a field is out of range.
    """

    expand: int
    kernel: int
    stride: int
    channels: int
    repeats: int

    def __post_init__(self) -> None:
        for field in fields(self):
            check_number(f"stage {field.name}", getattr(self, field.name), ODD if field.name == "kernel" else COUNT)


B0_STAGES = (
    StageConfig(expand=1, kernel=3, stride=1, channels=16, repeats=1),
    StageConfig(expand=6, kernel=3, stride=2, channels=24, repeats=2),
    StageConfig(expand=6, kernel=5, stride=2, channels=40, repeats=2),
    StageConfig(expand=6, kernel=3, stride=2, channels=80, repeats=3),
    StageConfig(expand=6, kernel=5, stride=1, channels=112, repeats=3),
    StageConfig(expand=6, kernel=5, stride=2, channels=192, repeats=4),
    StageConfig(expand=6, kernel=3, stride=1, channels=320, repeats=1),
)
"""Stages 2 to 8 of the paper's table 1."""


@dataclass(frozen=True)
class BlockConfig:
    """One MBConv block with every number resolved.

    Attributes:
        stage: index of its stage in ``EfficientNetConfig.stages``.
        index: its position among all blocks of the model.
        in_channels: channels of its input.
        out_channels: channels of its output.
        expand: the expansion ratio; 1 means no expanding convolution.
        squeeze_channels: width of the squeeze-and-excitation bottleneck; 0 means none.
        kernel: edge of the depthwise convolution.
        stride: stride of the depthwise convolution.
        drop_rate: the chance, in training, that a sample skips the block's residual branch; 0 without a shortcut.
        has_shortcut: whether the block adds its (possibly reshaped) input to its output.
    """

    stage: int
    index: int
    in_channels: int
    out_channels: int
    expand: int
    squeeze_channels: int
    kernel: int
    stride: int
    drop_rate: float
    has_shortcut: bool

    @property
    def expanded_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return self.in_channels * self.expand


_NUMBERS = {
    "width": POSITIVE,
    "depth": POSITIVE,
    "resolution": COUNT,
    "eval_resize": COUNT,
    "dropout": PROBABILITY,
    "bn_momentum": FRACTION,
    "bn_eps": POSITIVE,
    "stochastic_depth": PROBABILITY,
    "num_classes": COUNT,
    "stem_channels": COUNT,
    "head_channels": COUNT,
    "se_ratio": FRACTION,
}


@dataclass(frozen=True)
class EfficientNetConfig:
    """Everything that determines an EfficientNet.

    Attributes:
        name: what people call it, such as ``b0``.
        width: the width coefficient, applied to ``stem_channels``, ``head_channels`` and the channels of ``stages``.
        depth: the depth coefficient, applied to the repeats of ``stages``.
        resolution: edge of the square input image in pixels. The network takes any size; this is the intended one.
        eval_resize: edge in pixels to which the shorter side is resized before the central crop in evaluation.
        dropout: rate before the classifier.
        bn_momentum: share of the new batch in BatchNorm's running statistics, in torch's convention (TensorFlow's is
            one minus it).
        bn_eps: added to the variance in BatchNorm.
        stochastic_depth: drop rate that the last block would approach; it grows linearly from 0 over the blocks.
        activation: a name in ``ACTIVATIONS``.
        shortcut: a name in ``SHORTCUTS``.
        num_classes: outputs of the classifier.
        stages: the unscaled stages.
        stem_channels: unscaled output channels of the first convolution.
        head_channels: unscaled output channels of the last convolution.
        se_ratio: squeeze-and-excitation bottleneck relative to a block's *input* channels; 0 leaves the layer out.

    Raises:
        ValueError: a field is out of range, or the activation or the shortcut is unknown.
    """

    name: str
    width: float
    depth: float
    resolution: int
    eval_resize: int
    dropout: float
    bn_momentum: float
    bn_eps: float
    stochastic_depth: float = 0.2
    activation: str = "silu"
    shortcut: ShortcutKind = "residual"
    num_classes: int = 1000
    stages: tuple[StageConfig, ...] = B0_STAGES
    stem_channels: int = 32
    head_channels: int = 1280
    se_ratio: float = 0.25

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name must be a string, not {self.name!r}")
        for name, rule in _NUMBERS.items():
            check_number(name, getattr(self, name), rule)
        activation_spec(self.activation)
        check_choice("shortcut", self.shortcut, SHORTCUTS)
        stages = self.stages
        if not (isinstance(stages, tuple) and stages and all(isinstance(stage, StageConfig) for stage in stages)):
            raise ValueError(f"stages must be a non-empty tuple of StageConfig, not {stages!r}")

    @property
    def scaled_stem_channels(self) -> int:
        """Output channels of the first convolution."""
        return round_channels(self.stem_channels, self.width)

    @property
    def scaled_head_channels(self) -> int:
        """Output channels of the last convolution, which are the features that the classifier sees."""
        return round_channels(self.head_channels, self.width)

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """All MBConv blocks in order, scaled and rounded."""
        repeats = [round_repeats(stage.repeats, self.depth) for stage in self.stages]
        blocks: list[BlockConfig] = []
        in_channels = self.scaled_stem_channels
        for number, stage in enumerate(self.stages):
            out_channels = round_channels(stage.channels, self.width)
            for repeat in range(repeats[number]):
                stride = stage.stride if repeat == 0 else 1
                keeps_shape = stride == 1 and in_channels == out_channels
                has_shortcut = self.shortcut == "identity_conv" or (self.shortcut == "residual" and keeps_shape)
                index = len(blocks)
                blocks.append(
                    BlockConfig(
                        stage=number,
                        index=index,
                        in_channels=in_channels,
                        out_channels=out_channels,
                        expand=stage.expand,
                        squeeze_channels=max(1, int(in_channels * self.se_ratio)) if self.se_ratio else 0,
                        kernel=stage.kernel,
                        stride=stride,
                        # Over the index in the whole model, as in the reference implementation, not within the stage.
                        drop_rate=self.stochastic_depth * index / sum(repeats) if has_shortcut else 0.0,
                        has_shortcut=has_shortcut,
                    )
                )
                in_channels = out_channels
        return tuple(blocks)

    def scaled(self, width: float, depth: float, resolution: int) -> "EfficientNetConfig":
        """Return this architecture with other coefficients (which replace, not multiply, the present ones).

        ``eval_resize`` keeps its ratio to the resolution, and the name tells the coefficients. All else stays.

        Raises:
            ValueError: a coefficient is out of range.
        """
        check_number("resolution", resolution, COUNT)
        return replace(
            self,
            name=f"{self.name}-w{width}-d{depth}-r{resolution}",
            width=width,
            depth=depth,
            resolution=resolution,
            eval_resize=round(resolution * self.eval_resize / self.resolution),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dict that ``from_dict`` turns back into an equal config."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EfficientNetConfig":
        """Build a config from the output of ``to_dict``; fields with a default may be absent.

        Raises:
            ValueError: a field is unknown, missing or out of range.
        """
        required = [field.name for field in fields(cls) if field.default is MISSING]
        check_fields("config", data, [field.name for field in fields(cls)], required)
        values = dict(data)
        if "stages" in values:
            values["stages"] = tuple(_stage(row) for row in as_sequence("stages", values["stages"]))
        return cls(**values)


def _stage(row: Any) -> StageConfig:
    names = [field.name for field in fields(StageConfig)]
    check_fields("stage", row, names, required=names)
    return StageConfig(**row)


# The coefficients of the reference implementation (tensorflow/tpu, `efficientnet_builder`). BatchNorm as torchvision's
# weights were trained: torch's defaults up to B4, TensorFlow's (momentum 0.99, eps 1e-3) from B5. The resize before the
# central crop is torchvision's too (its B2 alone crops 288 pixels, more than the resolution it trains at).
#       width depth  res resize dropout momentum eps
_TABLE: Mapping[str, tuple[float, float, int, int, float, float, float]] = {
    "b0": (1.0, 1.0, 224, 256, 0.2, 0.1, 1e-5),
    "b1": (1.0, 1.1, 240, 256, 0.2, 0.1, 1e-5),
    "b2": (1.1, 1.2, 260, 288, 0.3, 0.1, 1e-5),
    "b3": (1.2, 1.4, 300, 320, 0.3, 0.1, 1e-5),
    "b4": (1.4, 1.8, 380, 384, 0.4, 0.1, 1e-5),
    "b5": (1.6, 2.2, 456, 456, 0.4, 0.01, 1e-3),
    "b6": (1.8, 2.6, 528, 528, 0.5, 0.01, 1e-3),
    "b7": (2.0, 3.1, 600, 600, 0.5, 0.01, 1e-3),
}

VARIANTS: Mapping[str, EfficientNetConfig] = MappingProxyType(
    {name: EfficientNetConfig(name, *coefficients) for name, coefficients in _TABLE.items()}
)
"""Variant name (``b0`` to ``b7``) → its configuration for ImageNet."""


def variant(name: str, /, **overrides: Any) -> EfficientNetConfig:
    """Return the configuration of a named variant with some fields replaced, as in ``variant("b0", num_classes=5)``.

    Raises:
        ValueError: the variant or an overridden field is unknown, or a value is out of range.
    """
    check_choice("variant", name, VARIANTS)
    check_fields("config", overrides, [field.name for field in fields(EfficientNetConfig)])
    return replace(VARIANTS[name], **overrides)
