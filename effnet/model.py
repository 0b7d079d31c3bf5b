"""The network."""

from torch import Tensor, nn

from .blocks import ConvNormAct, MBConv, NormAct
from .config import EfficientNetConfig


class EfficientNet(nn.Module):
    """EfficientNet (Tan & Le 2019, arXiv:1905.11946) as ``config`` describes it, with fresh weights.

    Attributes:
        config: what it was built from.
        stem: the first convolution, stride 2.
        stages: the MBConv stages in order; ``stages[i][j]`` is block ``j`` of stage ``i``.
        head: the last convolution, 1x1.
        classifier: the linear layer; initialised to U(-1/sqrt(classes), 1/sqrt(classes)), bias 0, like the reference.
    """

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        norm_act = NormAct(config.activation, config.bn_momentum, config.bn_eps)
        blocks = config.blocks
        self.stem = ConvNormAct(3, config.scaled_stem_channels, norm_act, kernel=3, stride=2)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(MBConv(block, norm_act) for block in blocks if block.stage == stage))
                for stage in range(len(config.stages))
            )
        )
        self.head = ConvNormAct(blocks[-1].out_channels, config.scaled_head_channels, norm_act)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.scaled_head_channels, config.num_classes)
        bound = config.num_classes**-0.5
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to the last feature map (N, head channels, h, w).

        Each of the five strides of 2 takes an edge of n pixels to ceil(n / 2), so 224 pixels become 7.
        """
        maps: Tensor = self.head(self.stages(self.stem(x)))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W), normalised floats, to logits (N, classes)."""
        logits: Tensor = self.classifier(self.dropout(self.pool(self.features(x)).flatten(1)))
        return logits
