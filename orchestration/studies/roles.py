"""What each variant of a study stands for, read off its name."""

from __future__ import annotations

from collections.abc import Sequence

from ...effnet import EfficientNetConfig, network_config
from ...effnet.scaling import CompoundScale
from ..report.contents import StudyAsked, VariantAsked
from .presets import STUDIES, StudyName

# Factors as people write them, also of resolutions that are rounded to multiples of 8 pixels.
_TOLERANCE = 0.02


def asked(study: StudyName, variants: Sequence[str]) -> StudyAsked:
    """What a report is told of a study.

    Args:
        study: its name.
        variants: in the order in which they were asked for. The first of each kind of network is the base of others.
    """
    preset, bases = STUDIES[study], list[str]()
    roles = {}
    for name in variants:
        base = next((base for base in bases if _scales(base, name)), name)
        bases += [base] if base == name else []
        roles[name] = _role(study, base, name)
    return StudyAsked(study, preset.title, preset.question, roles, preset.compared)


def _scales(base: str, name: str) -> bool:
    """Whether two networks differ in nothing but their scale."""
    ours, theirs = network_config(name), network_config(base)
    return (
        isinstance(ours, EfficientNetConfig)
        and isinstance(theirs, EfficientNetConfig)
        and (ours.stages, ours.stem_channels, ours.head_channels)
        == (theirs.stages, theirs.stem_channels, theirs.head_channels)
    )


def _role(study: StudyName, base: str, name: str) -> VariantAsked:
    ours, theirs = network_config(name), network_config(base)
    # The models of `family` are what they are, and torchvision's networks do not scale.
    if study == "family" or not isinstance(ours, EfficientNetConfig) or not isinstance(theirs, EfficientNetConfig):
        return VariantAsked("", 1.0, name, base)
    scale = CompoundScale(
        depth=ours.depth / theirs.depth, width=ours.width / theirs.width, resolution=ours.resolution / theirs.resolution
    )
    grown = {dimension: factor for dimension, factor in vars(scale).items() if abs(factor - 1) > _TOLERANCE}
    if not grown:
        return VariantAsked("base", 1.0, name, base)
    if study == "coefficients":
        label = f"α {scale.depth:.2g}, β {scale.width:.2g}, γ {scale.resolution:.2g}"
        return VariantAsked("triple", scale.flops, label, base)
    if len(grown) > 1:
        return VariantAsked("compound", scale.flops, f"compound × {scale.flops:.2g}", base)
    ((dimension, factor),) = grown.items()
    return VariantAsked(dimension, factor, f"{dimension} × {factor:.2g}", base)
