"""The architecture as frozen data: how coefficients scale its stages, and the resulting blocks."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import reduce
from typing import Any

from .activations import activation_spec
from .padding import PADDINGS, Padding, strided
from .scaling import ALPHA, BETA, GAMMA, compound_scaling, round_channels, round_repeats
from .stages import B0_STAGES, SHORTCUTS, BlockConfig, ShortcutKind, StageConfig
from .validation import (
    COUNT,
    FRACTION,
    NATURAL,
    ODD,
    POSITIVE,
    PROBABILITY,
    as_sequence,
    check_choice,
    check_fields,
    check_flag,
    check_number,
)

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
    "stem_kernel": ODD,
    "head_channels": NATURAL,
    "se_ratio": FRACTION,
}


@dataclass(frozen=True)
class EfficientNetConfig:
    """Everything that determines an EfficientNet, or another backbone that scales by the same rule.

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
        head_channels: unscaled output channels of the last convolution; 0 leaves it out.
        se_ratio: squeeze-and-excitation bottleneck relative to a block's *input* channels; 0 leaves the layer out.
            Bottleneck blocks have none.
        padding: a name in ``PADDINGS``.
        fixed_ends: whether, as in EfficientNet-Lite, the coefficients leave alone the channels of stem and head and the
            repeats of the first and the last stage.
        stem_kernel: edge of the first convolution.
        stem_pool: whether a 3x3 maximum pooling of stride 2 follows it.

    Raises:
        ValueError: a field is out of range, a name is unknown, or a bottleneck block would need squeeze-and-excitation.
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
    padding: Padding = "symmetric"
    fixed_ends: bool = False
    stem_kernel: int = 3
    stem_pool: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name must be a string, not {self.name!r}")
        for name, rule in _NUMBERS.items():
            check_number(name, getattr(self, name), rule)
        for name in ("fixed_ends", "stem_pool"):
            check_flag(name, getattr(self, name))
        activation_spec(self.activation)
        check_choice("shortcut", self.shortcut, SHORTCUTS)
        check_choice("padding", self.padding, PADDINGS)
        stages = self.stages
        if not (isinstance(stages, tuple) and stages and all(isinstance(stage, StageConfig) for stage in stages)):
            raise ValueError(f"stages must be a non-empty tuple of StageConfig, not {stages!r}")
        if self.se_ratio and any(stage.block == "bottleneck" for stage in stages):
            raise ValueError(f"se_ratio must be 0 with bottleneck blocks, not {self.se_ratio!r}")

    @property
    def scaled_stem_channels(self) -> int:
        """Output channels of the first convolution."""
        return self.stem_channels if self.fixed_ends else round_channels(self.stem_channels, self.width)

    @property
    def scaled_head_channels(self) -> int:
        """Channels of the last feature map, which the classifier sees: the last convolution's, or the last block's."""
        if not self.head_channels:
            return self._out_channels(self.stages[-1])
        return self.head_channels if self.fixed_ends else round_channels(self.head_channels, self.width)

    def _out_channels(self, stage: StageConfig) -> int:
        channels = round_channels(stage.channels, self.width)
        return channels if stage.block == "mbconv" else channels * stage.expand

    def _repeats(self, number: int) -> int:
        fixed = self.fixed_ends and number in (0, len(self.stages) - 1)
        return round_repeats(self.stages[number].repeats, 1.0 if fixed else self.depth)

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """All blocks in order, scaled and rounded."""
        repeats = [self._repeats(number) for number in range(len(self.stages))]
        blocks: list[BlockConfig] = []
        in_channels = self.scaled_stem_channels
        for number, stage in enumerate(self.stages):
            out_channels = self._out_channels(stage)
            for repeat in range(repeats[number]):
                stride = stage.stride if repeat == 0 else 1
                keeps_shape = stride == 1 and in_channels == out_channels
                residual = self.shortcut == "residual"
                projects = residual and stage.block == "bottleneck" and not keeps_shape
                has_shortcut = self.shortcut == "identity_conv" or (residual and keeps_shape) or projects
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
                        kind=stage.block,
                        projects=projects,
                    )
                )
                in_channels = out_channels
        return tuple(blocks)

    @property
    def block_count(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def scales(self) -> dict[str, float]:
        """The coefficients of its scaling besides the resolution."""
        return {"width": self.width, "depth": self.depth}

    @property
    def title(self) -> str:
        """What a reader is told of it, in a line."""
        scale = ", ".join(f"{name} {factor:.4g}" for name, factor in self.scales.items())
        return f"{self.name}: {scale}, {self.activation}, {self.shortcut} shortcuts"

    @property
    def kind(self) -> str:
        """What it has in common with networks of other sizes, when it comes to speed."""
        return self.activation if self.shortcut == "residual" else f"{self.activation}/{self.shortcut}"

    @property
    def can_checkpoint(self) -> bool:
        """Whether activations can be computed again in the backward pass."""
        return True

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has BatchNorm, which needs more than one value per channel to train."""
        return True

    @property
    def classifier_name(self) -> str:
        """Dotted name of the classifier in the network."""
        return "classifier"

    @property
    def widest_linear(self) -> int:
        """Weights of the largest linear layer: the classifier."""
        return self.scaled_head_channels * self.num_classes

    @property
    def smallest_image(self) -> int:
        """Edge in pixels of the smallest square image that the network takes."""
        return 1

    def feature_edge(self, edge: int) -> int:
        """Edge in pixels of the last feature map, the smallest, of a square input of ``edge`` pixels."""
        strides = [2, *([2] if self.stem_pool else []), *(block.stride for block in self.blocks)]
        return reduce(strided, strides, edge)

    def scaled(self, width: float, depth: float, resolution: int) -> "EfficientNetConfig":
        """Return this architecture with other coefficients (which replace, not multiply, the present ones).

        ``eval_resize`` keeps its ratio to the resolution. The name tells the coefficients, in pixels for the
        resolution, and is none that ``variant`` takes: there, factors multiply. All else stays.

        Raises:
            ValueError: a coefficient is out of range.
        """
        check_number("resolution", resolution, COUNT)
        return replace(
            self,
            name=f"{self.name}-w{width}-d{depth}-{resolution}px",
            width=width,
            depth=depth,
            resolution=resolution,
            eval_resize=round(resolution * self.eval_resize / self.resolution),
        )

    def compound_scaled(
        self, phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
    ) -> "EfficientNetConfig":
        """Return this architecture scaled by equation 3 of the paper: depth * alpha^φ, width * beta^φ, edge * gamma^φ.

        The present coefficients and resolution are the baseline, so that φ = 0 changes only the name. The resolution is
        rounded to whole pixels. Not the published B1 to B7, see ``compound_scaling``.

        Raises:
            ValueError: a resulting coefficient is out of range.
        """
        scale = compound_scaling(phi, alpha, beta, gamma)
        scaled = self.scaled(
            self.width * scale.width, self.depth * scale.depth, round(self.resolution * scale.resolution)
        )
        return replace(scaled, name=f"{self.name}-phi{phi:g}")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dict that ``from_dict`` turns back into an equal config."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EfficientNetConfig":
        """Build a config from the output of ``to_dict``; fields with a default may be absent.

        Raises:
            ValueError: a field is unknown, missing or out of range.
        """
        check_fields("config", data, [field.name for field in fields(cls)], _without_default(cls))
        values = dict(data)
        if "stages" in values:
            values["stages"] = tuple(_stage(row) for row in as_sequence("stages", values["stages"]))
        return cls(**values)


def _without_default(cls: type) -> list[str]:
    return [field.name for field in fields(cls) if field.default is MISSING]


def _stage(row: Any) -> StageConfig:
    check_fields("stage", row, [field.name for field in fields(StageConfig)], _without_default(StageConfig))
    return StageConfig(**row)
