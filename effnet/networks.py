"""Either kind of network, ours or a baseline of torchvision's, from its name, its JSON form or its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from .baselines.config import BASELINES, LIBRARY, BaselineConfig
from .config import EfficientNetConfig
from .naming import canonical_name, variant
from .validation import check_fields

if TYPE_CHECKING:
    from .baselines.network import Baseline
    from .model import EfficientNet

    Network: TypeAlias = EfficientNet | Baseline

NetworkConfig: TypeAlias = EfficientNetConfig | BaselineConfig
"""What determines a network."""


def network_config(name: str, /, **overrides: Any) -> NetworkConfig:
    """Return the configuration that a name stands for, with some fields replaced.

    Args:
        name: as ``variant`` takes it, or a name in ``BASELINES``.
        overrides: fields of the config.

    Raises:
        ValueError: no such network, or a field is unknown, out of range or nothing that the network has.
    """
    name = canonical_name(name)
    if name not in BASELINES:
        return variant(name, **overrides)
    known = BASELINES[name].to_dict()
    check_fields("config", overrides, [field for field in known if field not in ("library", "name")])
    return BaselineConfig.from_dict(known | overrides)


def config_from_dict(data: Mapping[str, Any]) -> NetworkConfig:
    """Build the config whose ``to_dict`` gave ``data``.

    Raises:
        ValueError: a field is unknown, missing or out of range.
    """
    is_baseline = isinstance(data, Mapping) and data.get("library") == LIBRARY
    return BaselineConfig.from_dict(data) if is_baseline else EfficientNetConfig.from_dict(data)


def make_network(config: NetworkConfig, *, checkpoint_activations: bool = False) -> Network:
    """Build a network with fresh weights: images (N, 3, H, W), normalised floats → logits (N, classes).

    Args:
        config: of either kind.
        checkpoint_activations: see ``EfficientNet``.

    Raises:
        ValueError: activations of a baseline are to be checkpointed.
    """
    if isinstance(config, EfficientNetConfig):
        from .model import EfficientNet

        return EfficientNet(config, checkpoint_activations=checkpoint_activations)
    from .baselines.network import Baseline

    if checkpoint_activations:
        raise ValueError(f"activations of torchvision's {config.name} cannot be checkpointed")
    return Baseline(config)
