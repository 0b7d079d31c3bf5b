"""What is known of torchvision's networks without importing it: ``facts.json``, which ``tracing.py`` writes.

A network is a list of *levels*: the sizes that its feature maps have. The size of a level follows from that of an
earlier one, and every cost of the layers there is a number per position of the map. So the costs follow for images of
any size, exactly and without building the network.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Window:
    """The convolution or pooling that first makes maps of a level, as torch defines its arguments."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    ceil: bool

    def edge(self, edge: int) -> int:
        """The output's edge for an input of ``edge`` pixels; 0 or less where the window does not fit in."""
        rest = edge + 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        if not self.ceil:
            return rest // self.stride + 1
        out = -(-rest // self.stride) + 1
        # The last window must begin within the image or its left padding.
        return out - 1 if (out - 1) * self.stride >= edge + self.padding else out


@dataclass(frozen=True)
class Level:
    """All layers whose output has one size. Without the classifier, which depends on the number of classes.

    Attributes:
        parent: index of the level whose maps ``window`` takes; None where the size is ``fixed``, or the image's.
        window: what makes the size; None where it is fixed, or the image's.
        fixed: the edge that an adaptive pooling gives, whatever the image; None elsewhere.
        operator: the kinds of its layers, such as ``Conv1x1 & Conv3x3``.
        channels: of the last layer's output.
        layers: convolutions and linear layers.
        params: learned parameters, those of norms included.
        macs: multiply-accumulates per position.
        kept: bytes per position that autograd keeps in float32.
    """

    parent: int | None
    window: Window | None
    fixed: int | None
    operator: str
    channels: int
    layers: int
    params: int
    macs: int
    kept: int


@dataclass(frozen=True)
class PublishedFile:
    """Torchvision's IMAGENET1K_V1: the file's name without its ending, and what it was evaluated with."""

    file: str
    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    imagenet_top1: float


@dataclass(frozen=True)
class BaselineFacts:
    """One network.

    Attributes:
        classifier: dotted name of its last layer with weights.
        features: input channels of the classifier.
        head_level: index of the level of the classifier's output.
        head_kept: bytes per class and position that autograd keeps of the classifier's output.
        activation: the activation function that it has most of.
        dropout: rate that it was published with; None: it has no such layer.
        stochastic_depth: rate of the last block that it was published with; None: it skips no blocks.
        batch_norm: whether it has BatchNorm.
        widest_linear: weights of its largest linear layer before the classifier; 0 without one.
        unused: prefixes of the keys of published weights that no layer here has: auxiliary classifiers.
        published: its weights.
        levels: in the order of the forward pass; the first is the image.
    """

    classifier: str
    features: int
    head_level: int
    head_kept: int
    activation: str
    dropout: float | None
    stochastic_depth: float | None
    batch_norm: bool
    widest_linear: int
    unused: tuple[str, ...]
    published: PublishedFile
    levels: tuple[Level, ...]

    def edges(self, edge: int) -> list[int]:
        """The edge of every level for an image of ``edge`` pixels; 0 or less where the image is too small."""
        found: list[int] = []
        for level in self.levels:
            if level.window is not None and level.parent is not None:
                found.append(level.window.edge(found[level.parent]))
            else:
                found.append(edge if level.fixed is None else level.fixed)
        return found

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "BaselineFacts":
        """Read one entry of ``facts.json``."""
        published = dict(fields["published"])
        published |= {name: tuple(published[name]) for name in ("mean", "std")}
        levels = [Level(parent, window and Window(*window), *others) for parent, window, *others in fields["levels"]]
        return cls(
            **{
                **fields,
                "unused": tuple(fields["unused"]),
                "published": PublishedFile(**published),
                "levels": tuple(levels),
            }
        )


FACTS: Mapping[str, BaselineFacts] = MappingProxyType(
    {
        name: BaselineFacts.from_dict(fields)
        for name, fields in json.loads(files(__package__).joinpath("facts.json").read_text()).items()
    }
)
"""Torchvision's name → what is known of the network."""
