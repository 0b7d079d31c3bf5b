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
        variants: in the order in which they were asked for, the base first.
    """
    preset = STUDIES[study]
    return StudyAsked(
        study, preset.title, preset.question, {name: _role(study, variants[0], name) for name in variants}
    )


def _role(study: StudyName, base: str, name: str) -> VariantAsked:
    ours, theirs = network_config(name), network_config(base)
    # Another family is no scaled base, and neither are the models of `family`, each of which is what it is.
    if study == "family" or not isinstance(ours, EfficientNetConfig) or not isinstance(theirs, EfficientNetConfig):
        return VariantAsked("", 1.0, name)
    scale = CompoundScale(
        depth=ours.depth / theirs.depth, width=ours.width / theirs.width, resolution=ours.resolution / theirs.resolution
    )
    grown = {dimension: factor for dimension, factor in vars(scale).items() if abs(factor - 1) > _TOLERANCE}
    if not grown:
        return VariantAsked("base", 1.0, base if name == base else name)
    if study == "coefficients":
        return VariantAsked(
            "triple", scale.flops, f"α {scale.depth:.2g}, β {scale.width:.2g}, γ {scale.resolution:.2g}"
        )
    if len(grown) > 1:
        return VariantAsked("compound", scale.flops, f"compound × {scale.flops:.2g}")
    ((dimension, factor),) = grown.items()
    return VariantAsked(dimension, factor, f"{dimension} × {factor:.2g}")
