"""`EfficientNet`: the network as a PyTorch module."""

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from .blocks import ConvNormAct, MaxPool, NormAct, make_block
from .checkpointing import checkpointed
from .config import EfficientNetConfig


class EfficientNet(nn.Module):
    """EfficientNet (Tan & Le 2019, arXiv:1905.11946) as ``config`` describes it, with fresh weights.

    The other backbones of ``VARIANTS`` are built of the same parts; what they lack is an identity.

    Attributes:
        config: what it was built from.
        stem: the first convolution, stride 2; in ResNet with the pooling after it as ``pool``.
        stages: the stages in order; ``stages[i][j]`` is block ``j`` of stage ``i``.
        head: the last convolution, 1x1; ResNet has none.
        classifier: the linear layer; initialised to U(-1/sqrt(classes), 1/sqrt(classes)), bias 0, like the reference.
        checkpoint_activations: whether training keeps only the input of every block of the stages and computes the
            rest again in the backward pass; slower by about a third, with the same gradients. May be set at any time.
    """

    checkpoint_activations: bool

    def __init__(self, config: EfficientNetConfig, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = checkpoint_activations
        norm_act = NormAct(config.activation, config.bn_momentum, config.bn_eps, config.padding)
        blocks = config.blocks
        features = config.scaled_head_channels
        self.stem = ConvNormAct(3, config.scaled_stem_channels, norm_act, kernel=config.stem_kernel, stride=2)
        if config.stem_pool:
            self.stem.pool = MaxPool(config.padding)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(make_block(block, norm_act) for block in blocks if block.stage == stage))
                for stage in range(len(config.stages))
            )
        )
        self.head = ConvNormAct(blocks[-1].out_channels, features, norm_act) if config.head_channels else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(features, config.num_classes)
        bound = config.num_classes**-0.5
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def parts(self) -> list[list[nn.Module]]:
        """The network from input to classifier: stem, stages, head, classifier."""
        return [[part] for part in (self.stem, *self.stages.children(), self.head, self.classifier)]

    def features(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to the last feature map (N, ``config.scaled_head_channels``, h, w).

        Each of the five strides of 2 takes an edge of n pixels to ceil(n / 2), so 224 pixels become 7.
        """
        x = self.stem(x)
        if self.checkpoint_activations and self.training and not is_scripting():
            # Blocks rather than stages: their ends are narrow and their insides wide, so their inputs take little.
            for stage in self.stages.children():
                for block in stage.children():
                    x = checkpointed(block, x)
        else:
            x = self.stages(x)
        maps: Tensor = self.head(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W), normalised floats, to logits (N, classes)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(self.features(x)).flatten(1)))
        return logits
