"""Training memory by arithmetic: what one device holds at the peak of a training step."""

from dataclasses import dataclass

from .complexity import complexity
from .costs import Complexity, Size
from .networks import NetworkConfig

_FLOAT_BYTES = 4
_ADAMW_MOMENTS = 2


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of tensors alive at the peak of a step of AdamW in float32 and eager mode, under DDP, on each device.

    The peak is where the backward pass begins: every saved activation is still there, and weights, gradients (DDP's
    buckets live as long as the model) and both moments are there throughout.

    Left out are what an allocator or a CUDA context holds in reserve, BatchNorm's statistics (less than 1 % of the
    weights), and the workspaces of cuDNN and oneDNN. On a CPU those are up to 30 MB for B0, whatever the batch, which
    only shows where the activations are few. Mixed precision is left out too: it about halves the activations alone.

    Attributes:
        weights: the learned parameters.
        gradients: their gradients.
        optimizer: AdamW's two moments.
        activations: what autograd keeps for the backward pass of the batch, see ``Complexity``.
        transient: what comes on top for a moment: the first gradients of the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    transient: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.transient


@dataclass(frozen=True)
class TrainingEstimate:
    """A model and what it costs to train: ``cost`` for one image, ``memory`` for batches of ``batch`` images."""

    config: NetworkConfig
    cost: Complexity
    memory: TrainingMemory
    batch: int


def estimate(
    config: NetworkConfig,
    batch: int = 32,
    image_size: int | Size | None = None,
    *,
    checkpoint_activations: bool = False,
) -> TrainingEstimate:
    """Compute what training ``config`` costs, without building the model.

    Args:
        config: the architecture.
        batch: images of one device at a time.
        image_size: edge, or (height, width), of the image in pixels; by default the config's resolution.
        checkpoint_activations: see ``EfficientNet``; the peak is then within the backward pass, and the gradients that
            pass there count as activations.

    Raises:
        ValueError: the batch or the image size is not positive.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1 image, not {batch}")
    cost = complexity(config, image_size)
    weights = cost.params * _FLOAT_BYTES
    head = cost.stages[-1]
    # Whichever is larger of two that follow each other: the gradient of the widest layer's weights, before it is added
    # to what DDP keeps, and the gradients of the last feature map, before and after the activation or the norm.
    linear = config.widest_linear
    feature_map = head.channels * head.resolution[0] * head.resolution[1]
    return TrainingEstimate(
        config=config,
        cost=cost,
        memory=TrainingMemory(
            weights=weights,
            gradients=weights,
            optimizer=_ADAMW_MOMENTS * weights,
            activations=batch * (cost.checkpointed_bytes if checkpoint_activations else cost.activation_bytes),
            transient=0 if checkpoint_activations else _FLOAT_BYTES * max(linear, 2 * batch * feature_map),
        ),
        batch=batch,
    )
