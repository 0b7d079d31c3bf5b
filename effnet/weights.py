"""Weights of other libraries in our networks, checked key by key."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from .config import EfficientNetConfig
from .layouts import SOURCES, Source, module_names
from .model import EfficientNet
from .validation import check_choice

_WRAPPERS = ("module.", "_orig_mod.")
_CLASSIFIER = "classifier."
_COUNTER = "num_batches_tracked"

State = Mapping[str, Tensor]


def key_map(config: EfficientNetConfig, source: Source) -> dict[str, str]:
    """Return which key of ``source`` fills each key of the state dict of ``EfficientNet(config)``; no two the same.

    Raises:
        ValueError: the source is unknown, has no such network, or has nothing for a key, which the message names.
    """
    return _key_map(list(_shapes(config)), config, source)


def convert_state_dict(
    state: State, source: Source, config: EfficientNetConfig, *, keep_classifier: bool = True
) -> dict[str, Tensor]:
    """Return a state dict of ``EfficientNet(config)`` with the tensors (not copies) of another library's model.

    Every key of either side must be used exactly once, and every shape must match. Prefixes that DataParallel,
    DistributedDataParallel and ``torch.compile`` leave on keys are dropped. A BatchNorm's ``num_batches_tracked``,
    which files from before torch 0.4.1 lack, becomes 0 if absent, as in torch.

    Args:
        state: the other model's state dict.
        source: whose names it has, see ``SOURCES``.
        config: the same network; its activation, padding and BatchNorm eps are not checked, no state dict tells them.
        keep_classifier: if false, the classifier's keys may be absent or of any shape, and the result is without them.

    Raises:
        ValueError: a key is missing, unknown, double or of the wrong shape; the message names it.
    """
    return _convert(state, source, config, _shapes(config), keep_classifier)


def load_weights(model: EfficientNet, state: State, source: Source, *, keep_classifier: bool = True) -> None:
    """Copy another library's weights into ``model``, or change nothing; see ``convert_state_dict``.

    Args:
        model: the same network.
        state: the other model's state dict.
        source: whose names it has, see ``SOURCES``.
        keep_classifier: if false, the model's own classifier stays as it is, for other classes.

    Raises:
        ValueError: a key is missing, unknown, double or of the wrong shape; the message names it.
    """
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    # Not strict only about the classifier: `_convert` has answered for all else.
    model.load_state_dict(_convert(state, source, model.config, shapes, keep_classifier), strict=keep_classifier)


@lru_cache(maxsize=8)
def _shapes(config: EfficientNetConfig) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        return MappingProxyType({key: value.shape for key, value in EfficientNet(config).state_dict().items()})


def _key_map(keys: list[str], config: EfficientNetConfig, source: Source) -> dict[str, str]:
    check_choice("source", source, SOURCES)
    if source == "effnet":
        return {key: key for key in keys}
    names = module_names(config, source)
    mapping: dict[str, str] = {}
    for key in keys:
        module, _, leaf = key.rpartition(".")
        if module not in names:
            raise ValueError(f"{source} has no weights for {key!r}")
        mapping[key] = f"{names[module]}.{leaf}"
    return mapping


def _convert(
    state: State, source: Source, config: EfficientNetConfig, shapes: Mapping[str, torch.Size], keep_classifier: bool
) -> dict[str, Tensor]:
    theirs = _unwrapped(state)
    result: dict[str, Tensor] = {}
    for key, name in _key_map(list(shapes), config, source).items():
        value = theirs.pop(name, None)
        if key.startswith(_CLASSIFIER) and not keep_classifier:
            continue
        if value is None and key.endswith(_COUNTER):
            value = torch.tensor(0)
        if value is None:
            raise ValueError(f"the {source} state dict lacks {name!r}, which fills {key!r}")
        if not isinstance(value, Tensor):
            raise ValueError(f"{name!r} of the {source} state dict is no tensor, but {type(value).__name__}")
        if value.shape != shapes[key]:
            hint = "; keep_classifier=False leaves it out" if key.startswith(_CLASSIFIER) else ""
            raise ValueError(
                f"{name!r} of the {source} state dict has the shape {tuple(value.shape)}, "
                f"but {key!r} of {config.name} has {tuple(shapes[key])}{hint}"
            )
        result[key] = value
    if theirs:
        raise ValueError(f"{config.name} has no use for {next(iter(theirs))!r} of the {source} state dict")
    return result


def _unwrapped(state: State) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        if name in result:
            raise ValueError(f"the state dict has {name!r} twice, with and without a wrapper's prefix")
        result[name] = value
    return result
