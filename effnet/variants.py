"""The named models as data: EfficientNet B0 to B7, EfficientNet-Lite, MobileNetV2 and ResNet-50."""

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from .config import EfficientNetConfig
from .stages import StageConfig
from .validation import check_choice, check_fields

NORMS: Mapping[str, tuple[float, float]] = MappingProxyType({"torch": (0.1, 1e-5), "paper": (0.01, 1e-3)})
"""BatchNorm preset → (momentum in torch's convention, eps).

``torch``: torch's defaults. ``paper``: the reference implementation's, TensorFlow's momentum 0.99.
"""

NORM_NAMES = (*NORMS, "torchvision")
"""The names of presets. ``torchvision`` is what torchvision trained the size with: ``paper`` from B5 on."""

# The coefficients of the reference implementation (tensorflow/tpu, `efficientnet_builder`). The resize before the
# central crop is torchvision's (its B2 alone crops 288 pixels, more than the resolution it trains at).
#       width depth  res resize dropout norm
_EFFICIENTNETS: Mapping[str, tuple[float, float, int, int, float, str]] = {
    "b0": (1.0, 1.0, 224, 256, 0.2, "torch"),
    "b1": (1.0, 1.1, 240, 256, 0.2, "torch"),
    "b2": (1.1, 1.2, 260, 288, 0.3, "torch"),
    "b3": (1.2, 1.4, 300, 320, 0.3, "torch"),
    "b4": (1.4, 1.8, 380, 384, 0.4, "torch"),
    "b5": (1.6, 2.2, 456, 456, 0.4, "paper"),
    "b6": (1.8, 2.6, 528, 528, 0.5, "paper"),
    "b7": (2.0, 3.1, 600, 600, 0.5, "paper"),
}

# The same for tensorflow/tpu, `lite/efficientnet_lite_builder`.
#       width depth  res dropout
_LITES: Mapping[str, tuple[float, float, int, float]] = {
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3),
    "lite4": (1.4, 1.8, 300, 0.3),
}

# The reference implementation resizes so that the central crop leaves out 32 pixels, in all.
_TF_CROP_PADDING = 32

MOBILENETV2_STAGES = (
    StageConfig(expand=1, kernel=3, stride=1, channels=16, repeats=1),
    StageConfig(expand=6, kernel=3, stride=2, channels=24, repeats=2),
    StageConfig(expand=6, kernel=3, stride=2, channels=32, repeats=3),
    StageConfig(expand=6, kernel=3, stride=2, channels=64, repeats=4),
    StageConfig(expand=6, kernel=3, stride=1, channels=96, repeats=3),
    StageConfig(expand=6, kernel=3, stride=2, channels=160, repeats=3),
    StageConfig(expand=6, kernel=3, stride=1, channels=320, repeats=1),
)
"""Table 2 of Sandler et al. 2018 (arXiv:1801.04381)."""

RESNET50_STAGES = (
    StageConfig(expand=4, kernel=3, stride=1, channels=64, repeats=3, block="bottleneck"),
    StageConfig(expand=4, kernel=3, stride=2, channels=128, repeats=4, block="bottleneck"),
    StageConfig(expand=4, kernel=3, stride=2, channels=256, repeats=6, block="bottleneck"),
    StageConfig(expand=4, kernel=3, stride=2, channels=512, repeats=3, block="bottleneck"),
)
"""Table 1 of He et al. 2015 (arXiv:1512.03385), with the stride in the 3x3 convolution as torchvision has it."""


def _efficientnets() -> dict[str, EfficientNetConfig]:
    return {
        name: EfficientNetConfig(name, width, depth, resolution, resize, dropout, *NORMS[norm])
        for name, (width, depth, resolution, resize, dropout, norm) in _EFFICIENTNETS.items()
    }


def _lites() -> dict[str, EfficientNetConfig]:
    return {
        name: EfficientNetConfig(
            name,
            width,
            depth,
            resolution,
            resolution + _TF_CROP_PADDING,
            dropout,
            *NORMS["torch"],
            activation="relu6",
            se_ratio=0,
            fixed_ends=True,
        )
        for name, (width, depth, resolution, dropout) in _LITES.items()
    }


def _as_in_tensorflow(configs: Mapping[str, EfficientNetConfig]) -> dict[str, EfficientNetConfig]:
    momentum, eps = NORMS["paper"]
    return {
        f"tf_{name}": replace(
            config,
            name=f"tf_{name}",
            eval_resize=config.resolution + _TF_CROP_PADDING,
            bn_momentum=momentum,
            bn_eps=eps,
            padding="same",
        )
        for name, config in configs.items()
    }


# What the paper's section 5.1 scales besides its own baseline.
_OTHER_BACKBONES = {
    "mobilenetv2": EfficientNetConfig(
        "mobilenetv2",
        1.0,
        1.0,
        224,
        256,
        0.2,
        *NORMS["torch"],
        stochastic_depth=0.0,
        activation="relu6",
        stages=MOBILENETV2_STAGES,
        se_ratio=0,
    ),
    "resnet50": EfficientNetConfig(
        "resnet50",
        1.0,
        1.0,
        224,
        256,
        0.0,
        *NORMS["torch"],
        stochastic_depth=0.0,
        activation="relu",
        stages=RESNET50_STAGES,
        stem_channels=64,
        head_channels=0,
        se_ratio=0,
        stem_kernel=7,
        stem_pool=True,
    ),
}

VARIANTS: Mapping[str, EfficientNetConfig] = MappingProxyType(
    {
        **_efficientnets(),
        **_lites(),
        **_as_in_tensorflow(_efficientnets()),
        **_as_in_tensorflow(_lites()),
        **_OTHER_BACKBONES,
    }
)
"""Variant name → its configuration for ImageNet.

``b0`` to ``b7`` as torchvision trains them. ``lite0`` to ``lite4``, EfficientNet-Lite: no squeeze-and-excitation,
ReLU6, stem and head not scaled. ``tf_…``: either family with the padding and the BatchNorm of the reference
implementation, in TensorFlow; for its weights. ``mobilenetv2`` and ``resnet50``: other baselines for the same scaling.
"""


def published(name: str, /, norm: str | None = None, **overrides: Any) -> EfficientNetConfig:
    """Return the configuration of a named variant with some fields replaced, as in ``published("b0", num_classes=5)``.

    Args:
        name: a name in ``VARIANTS``.
        norm: a name in ``NORM_NAMES``, whose momentum and eps replace the variant's; overrides of either one win.
        overrides: fields of ``EfficientNetConfig``.

    Raises:
        ValueError: the variant, the preset or an overridden field is unknown, a value is out of range, or torchvision
            has no such model whose BatchNorm could be asked for.
    """
    check_choice("variant", name, VARIANTS)
    check_fields("config", overrides, [field.name for field in fields(EfficientNetConfig)])
    if norm is not None:
        momentum, eps = _norm(norm, name)
        overrides = {"bn_momentum": momentum, "bn_eps": eps} | overrides
    return replace(VARIANTS[name], **overrides)


def _norm(norm: str, name: str) -> tuple[float, float]:
    check_choice("norm", norm, NORM_NAMES)
    if norm in NORMS:
        return NORMS[norm]
    twin = name.removeprefix("tf_")
    if twin.startswith("lite"):
        raise ValueError(f"torchvision has no {name}; norm must be one of {', '.join(NORMS)}")
    return VARIANTS[twin].bn_momentum, VARIANTS[twin].bn_eps
