"""EfficientNet and its relatives in plain PyTorch; the names below are the public interface (docs/effnet.md).

What does not compute with tensors imports without torch, so that planning stays quick; the other names load it when
they are first used. Everything else is in the modules, by concern.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .activations import ACTIVATIONS
from .baselines.config import BASELINES, BaselineConfig
from .budget import Budget, largest_phi
from .complexity import complexity
from .config import EfficientNetConfig
from .naming import variant
from .networks import make_network, network_config
from .pretrained import load_pretrained
from .variants import VARIANTS

if TYPE_CHECKING:
    from .cam import class_activation_map, grad_cam
    from .export import export_model
    from .model import EfficientNet
    from .weights import load_weights

__all__ = [
    "ACTIVATIONS",
    "BASELINES",
    "VARIANTS",
    "BaselineConfig",
    "Budget",
    "EfficientNet",
    "EfficientNetConfig",
    "class_activation_map",
    "complexity",
    "export_model",
    "grad_cam",
    "largest_phi",
    "load_pretrained",
    "load_weights",
    "make_network",
    "network_config",
    "variant",
]

_NEEDS_TORCH = {
    "EfficientNet": ".model",
    "class_activation_map": ".cam",
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
