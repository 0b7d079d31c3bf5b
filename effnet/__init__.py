"""EfficientNet and its relatives in plain PyTorch: configurations, cost arithmetic, the network, published weights.

Everything but the network itself imports without torch, so that planning stays quick; the names that need torch load it
when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .activations import ACTIVATION_NAMES, ACTIVATIONS, make_activation
from .complexity import Complexity, StageRow, complexity
from .config import BLOCK_KINDS, SHORTCUTS, BlockKind, EfficientNetConfig, ShortcutKind, StageConfig
from .layouts import SOURCES, Source
from .naming import variant
from .padding import PADDINGS, Padding
from .pretrained import PRETRAINED, EvalTransform, WeightsInfo, load_pretrained
from .scaling import CompoundScale, compound_scaling, round_channels, round_repeats
from .variants import NORM_NAMES, NORMS, VARIANTS

if TYPE_CHECKING:
    from .cam import ActivationMaps, class_activation_map, grad_cam
    from .export import ExportError, Interface, export_model
    from .model import EfficientNet
    from .weights import convert_state_dict, load_weights

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_NAMES",
    "BLOCK_KINDS",
    "NORMS",
    "NORM_NAMES",
    "PADDINGS",
    "PRETRAINED",
    "SHORTCUTS",
    "SOURCES",
    "VARIANTS",
    "ActivationMaps",
    "BlockKind",
    "Complexity",
    "CompoundScale",
    "EfficientNet",
    "EfficientNetConfig",
    "EvalTransform",
    "ExportError",
    "Interface",
    "Padding",
    "ShortcutKind",
    "Source",
    "StageConfig",
    "StageRow",
    "WeightsInfo",
    "class_activation_map",
    "complexity",
    "compound_scaling",
    "convert_state_dict",
    "export_model",
    "grad_cam",
    "load_pretrained",
    "load_weights",
    "make_activation",
    "round_channels",
    "round_repeats",
    "variant",
]

_NEEDS_TORCH = {
    "ActivationMaps": ".cam",
    "EfficientNet": ".model",
    "ExportError": ".export",
    "Interface": ".export",
    "class_activation_map": ".cam",
    "convert_state_dict": ".weights",
    "export_model": ".export",
    "grad_cam": ".cam",
    "load_weights": ".weights",
}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_NEEDS_TORCH[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
