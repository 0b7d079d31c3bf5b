"""The parts of an architecture as frozen data: rows of the paper's table 1, blocks, and the table of B0."""

from dataclasses import dataclass
from typing import Literal, get_args

from .validation import COUNT, ODD, check_choice, check_number

ShortcutKind = Literal["residual", "none", "identity_conv"]
SHORTCUTS: tuple[ShortcutKind, ...] = get_args(ShortcutKind)
"""Where a block adds its input to its output.

``residual``: as published, which is where the shape is kept; in bottleneck blocks also where it changes, by a strided
1x1 convolution with BatchNorm. ``none``: nowhere (ablation). ``identity_conv``: everywhere; where the shape changes,
average pooling takes the stride and a 1x1 convolution that starts as the identity the channels.
"""

BlockKind = Literal["mbconv", "bottleneck"]
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
"""What a stage is made of.

``mbconv``: wide inside, depthwise (MobileNetV2's inverted residual; EfficientNet's with squeeze-and-excitation).
``bottleneck``: narrow inside, dense (ResNet-50's, with the stride in the k x k convolution).
"""


@dataclass(frozen=True)
class StageConfig:
    """One row of the paper's table 1 before scaling: ``repeats`` blocks, of which the first has the stride.

    Attributes:
        expand: an mbconv is inside ``expand`` times as wide as its input; a bottleneck's output is ``expand`` times as
            wide as its inside.
        kernel: edge of the convolution inside.
        stride: stride of the convolution inside the first block.
        channels: an mbconv's output channels; a bottleneck's channels inside.
        repeats: number of blocks.
        block: a name in ``BLOCK_KINDS``.

    Raises:
        ValueError: a field is out of range.
    """

    expand: int
    kernel: int
    stride: int
    channels: int
    repeats: int
    block: BlockKind = "mbconv"

    def __post_init__(self) -> None:
        for name, rule in _STAGE_NUMBERS.items():
            check_number(f"stage {name}", getattr(self, name), rule)
        check_choice("stage block", self.block, BLOCK_KINDS)


_STAGE_NUMBERS = {"expand": COUNT, "kernel": ODD, "stride": COUNT, "channels": COUNT, "repeats": COUNT}


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
    """One block with every number resolved.

    Attributes:
        stage: index of its stage in ``EfficientNetConfig.stages``.
        index: its position among all blocks of the model.
        in_channels: channels of its input.
        out_channels: channels of its output.
        expand: the expansion ratio, see ``StageConfig``; 1 means no expanding convolution in an mbconv.
        squeeze_channels: width of the squeeze-and-excitation bottleneck; 0 means none.
        kernel: edge of the convolution inside.
        stride: stride of the convolution inside.
        drop_rate: the chance, in training, that a sample skips the block's residual branch; 0 without a shortcut.
        has_shortcut: whether the block adds its (possibly reshaped) input to its output.
        kind: what it is.
        projects: whether its shortcut is a strided 1x1 convolution with BatchNorm.
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
    kind: BlockKind = "mbconv"
    projects: bool = False

    @property
    def expanded_channels(self) -> int:
        """Channels of the convolution inside: an mbconv expands its input to them, a bottleneck them to its output."""
        return self.in_channels * self.expand if self.kind == "mbconv" else self.out_channels // self.expand
