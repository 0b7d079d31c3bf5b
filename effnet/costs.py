"""What a network costs, as values: of one image, in all and by stage."""

from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class StageRow:
    """One row of the paper's table 1, after scaling, with its costs.

    Attributes:
        stage: 1 is the stem, then the stages of blocks, last the head with pooling and classifier. Of a baseline, a
            stage is all layers whose output has one size, which is then the resolution; last those of pooled maps.
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
