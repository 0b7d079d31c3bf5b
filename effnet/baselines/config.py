"""``BaselineConfig``: one of torchvision's networks as frozen data, like ``EfficientNetConfig``, and what it costs."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any

from ..costs import Complexity, Size, StageRow
from ..validation import COUNT, FRACTION, PROBABILITY, check_choice, check_fields, check_number
from .facts import FACTS, BaselineFacts

LIBRARY = "torchvision"
_SHORTCUT = "residual"
# A block of these networks, where they have any, is of about so many layers.
_LAYERS_PER_BLOCK = 3


@dataclass(frozen=True)
class BaselineConfig:
    """Everything that determines a baseline: one of torchvision's networks as it was published.

    Attributes:
        name: torchvision's, such as ``resnet18``; a name in ``BASELINES``.
        dropout: rate of its dropout layers; 0 where it has none.
        bn_momentum: share of the new batch in BatchNorm's running statistics, in torch's convention. The eps is
            torchvision's.
        stochastic_depth: drop rate that the last block has, or approaches; 0 where it skips none.
        activation: the activation function that it has most of; no other can be asked for.
        shortcut: ``residual``, which is as published; no other can be asked for.
        num_classes: outputs of the classifier.

    Raises:
        ValueError: the name is unknown, a value is out of range, or the network has not what is asked for.
    """

    name: str
    dropout: float
    bn_momentum: float
    stochastic_depth: float
    activation: str
    shortcut: str = _SHORTCUT
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_choice("baseline", self.name, FACTS)
        check_number("num_classes", self.num_classes, COUNT)
        check_number("bn_momentum", self.bn_momentum, FRACTION)
        for field, own in (("dropout", self.facts.dropout), ("stochastic_depth", self.facts.stochastic_depth)):
            value = getattr(self, field)
            check_number(field, value, PROBABILITY)
            if value and own is None:
                raise ValueError(f"torchvision's {self.name} has no {field}; give none, or leave {self.name} out")
        for field, only in (("activation", self.facts.activation), ("shortcut", _SHORTCUT)):
            if getattr(self, field) != only:
                raise ValueError(
                    f"torchvision's {self.name} has {field} {only} alone, not {getattr(self, field)}; "
                    f"give none, or leave {self.name} out"
                )

    @property
    def facts(self) -> BaselineFacts:
        """What is known of the network."""
        return FACTS[self.name]

    @property
    def resolution(self) -> int:
        """Edge of the square image in pixels that the published weights are evaluated with."""
        return self.facts.published.crop

    @property
    def eval_resize(self) -> int:
        """Edge in pixels to which the shorter side is resized before the central crop in evaluation."""
        return self.facts.published.resize

    @property
    def scales(self) -> dict[str, float]:
        """Coefficients of its scaling: none."""
        return {}

    @property
    def title(self) -> str:
        """What a reader is told of it, in a line."""
        return f"torchvision's {self.name}: {self.activation}, by size of the feature maps"

    @property
    def kind(self) -> str:
        """What it has in common with networks of other sizes, when it comes to speed: nothing."""
        return self.name

    @property
    def block_count(self) -> int:
        """About how many blocks it has."""
        return max(1, sum(level.layers for level in self.facts.levels) // _LAYERS_PER_BLOCK)

    @property
    def can_checkpoint(self) -> bool:
        """Whether activations can be computed again in the backward pass."""
        return False

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has BatchNorm, which needs more than one value per channel to train."""
        return self.facts.batch_norm

    @property
    def classifier_name(self) -> str:
        """Dotted name of the classifier in the network."""
        return f"network.{self.facts.classifier}"

    @property
    def widest_linear(self) -> int:
        """Weights of the largest linear layer."""
        return max(self.facts.widest_linear, self.facts.features * self.num_classes)

    def feature_edge(self, edge: int) -> int:
        """Edge in pixels of the last feature map, the smallest, of a square input of ``edge`` pixels."""
        maps = zip(self.facts.levels, self.facts.edges(edge), strict=True)
        return [size for level, size in maps if level.fixed is None][-1]

    @property
    def smallest_image(self) -> int:
        """Edge in pixels of the smallest square image that the network takes."""
        return next(edge for edge in range(1, self.resolution + 1) if min(self.facts.edges(edge)) > 0)

    def complexity(self, size: Size) -> Complexity:
        """What one image of ``size`` costs, exactly; see ``effnet.complexity``. A row is all layers of one map's size.

        Raises:
            ValueError: the image is smaller than the network takes.
        """
        if min(size) < self.smallest_image:
            given = size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"
            raise ValueError(f"{self.name} takes images of at least {self.smallest_image} px, not {given}")
        facts = self.facts
        sizes = list(zip(facts.edges(size[0]), facts.edges(size[1]), strict=True))
        # What is computed of pooled maps comes last: squeeze-and-excitation, which runs all along, and the classifier.
        order = sorted(range(len(sizes)), key=lambda number: facts.levels[number].fixed is not None)
        rows: list[StageRow] = []
        for number in order:
            level, map_size = facts.levels[number], sizes[number]
            params, macs, kept = level.params, level.macs, level.kept
            if number == facts.head_level:
                params += (facts.features + 1) * self.num_classes
                macs += facts.features * self.num_classes
                kept += facts.head_kept * self.num_classes
            area = map_size[0] * map_size[1]
            costs = (params, macs * area, kept * area)
            rows.append(StageRow(len(rows) + 1, level.operator, map_size, level.channels, level.layers, *costs))
        kept = sum(row.activation_bytes for row in rows)
        return Complexity(sum(row.params for row in rows), sum(row.macs for row in rows), kept, kept, tuple(rows))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dict that ``from_dict`` turns back into an equal config."""
        return {"library": LIBRARY} | {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BaselineConfig":
        """Build a config from the output of ``to_dict``; fields with a default may be absent.

        Raises:
            ValueError: a field is unknown, missing or out of range.
        """
        values = {name: value for name, value in data.items() if name != "library"}
        known = [field.name for field in fields(cls)]
        check_fields("config", values, known, [field.name for field in fields(cls) if field.default is MISSING])
        return cls(**values)


BASELINES: Mapping[str, BaselineConfig] = MappingProxyType(
    {
        name: BaselineConfig(name, facts.dropout or 0.0, 0.1, facts.stochastic_depth or 0.0, facts.activation)
        for name, facts in FACTS.items()
    }
)
"""Torchvision's name → its network for ImageNet: its convolutional classifiers that are not among ``VARIANTS``.

All take images of any size from ``smallest_image`` on. Left out are the transformers, which take one size alone, and
``regnet_y_128gf``, of which there are no weights from ImageNet alone. Auxiliary classifiers are off.
"""

_OWN_NAMES = MappingProxyType(
    {"mobilenet_v2": "mobilenetv2", **{f"efficientnet_b{number}": f"b{number}" for number in range(8)}}
)


def own_name(name: str) -> str:
    """Our name of a network that torchvision has too, such as ``b0`` of ``efficientnet_b0``; others stay."""
    return _OWN_NAMES.get(name, name)
