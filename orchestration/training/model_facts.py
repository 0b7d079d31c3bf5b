"""`ModelFacts`: what a model's weights alone do not say, kept beside them wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ...effnet.networks import NetworkConfig, config_from_dict
from ...effnet.pretrained import Interpolation
from ..errors import UserError
from .normalization import IMAGENET, Channels, Inputs, Normalization


@dataclass(frozen=True)
class ModelFacts:
    """What weights alone do not say.

    `image_size` and `eval_resize`, in pixels, and `interpolation` are the evaluation transform's.
    """

    config: NetworkConfig
    classes: tuple[str, ...]
    image_size: int
    eval_resize: int
    normalization: Normalization = IMAGENET
    interpolation: Interpolation = "bicubic"

    @property
    def inputs(self) -> Inputs:
        """What the weights want of their images besides a size."""
        return Inputs(self.normalization, self.interpolation)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-safe form, for MLflow's model metadata and for checkpoints."""
        plain = {"config": self.config.to_dict(), "classes": list(self.classes)}
        return vars(self) | plain | {"normalization": [list(channels) for channels in self.normalization]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ModelFacts:
        """The inverse of `to_dict`; fields of later versions are ignored.

        Raises:
            ValueError: a field is missing or wrong.
        """
        try:
            config, classes = config_from_dict(fields["config"]), tuple(map(str, fields["classes"]))
            mean, std = fields.get("normalization", IMAGENET)
            normalization = Normalization(_channels(mean), _channels(std))
            interpolation = fields.get("interpolation", "bicubic")
            sizes = int(fields["image_size"]), int(fields["eval_resize"])
            facts = cls(config, classes, *sizes, normalization, interpolation)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"unknown interpolation {interpolation!r}")
        if len(facts.classes) != config.num_classes:
            raise ValueError(f"{len(facts.classes)} class names for {config.num_classes} classes")
        return facts

    def class_index(self, name: str) -> int:
        """The index of a class by its name.

        Raises:
            UserError: there is no such class; the message lists some.
        """
        if name in self.classes:
            return self.classes.index(name)
        more = f", … ({len(self.classes)} in all)" if len(self.classes) > 10 else ""
        raise UserError(f"unknown class '{name}'; the model knows {', '.join(self.classes[:10])}{more}")


def _channels(values: Iterable[Any]) -> Channels:
    red, green, blue = map(float, values)
    return red, green, blue
