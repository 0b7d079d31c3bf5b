"""EfficientNet in plain PyTorch: configurations, cost arithmetic, and the network.

Everything but the network itself imports without torch, so that planning stays quick; the names that need torch load it
when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .activations import ACTIVATION_NAMES, ACTIVATIONS, make_activation
from .complexity import Complexity, StageRow, complexity
from .config import SHORTCUTS, VARIANTS, EfficientNetConfig, ShortcutKind, StageConfig, variant
from .scaling import CompoundScale, compound_scaling, round_channels, round_repeats

if TYPE_CHECKING:
    from .model import EfficientNet

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_NAMES",
    "SHORTCUTS",
    "VARIANTS",
    "Complexity",
    "CompoundScale",
    "EfficientNet",
    "EfficientNetConfig",
    "ShortcutKind",
    "StageConfig",
    "StageRow",
    "complexity",
    "compound_scaling",
    "make_activation",
    "round_channels",
    "round_repeats",
    "variant",
]

_NEEDS_TORCH = {"EfficientNet": ".model"}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_NEEDS_TORCH[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
