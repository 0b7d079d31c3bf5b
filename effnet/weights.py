"""Weights of other libraries in our networks, checked key by key."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .baselines.config import LIBRARY, BaselineConfig
from .baselines.network import Baseline
from .layouts import SOURCES, Source, module_names
from .model import EfficientNet
from .networks import NetworkConfig
from .validation import check_choice
from .wrappings import common_prefix, inner_state, wrapped_name

_LISTED = 8
_COUNTER = "num_batches_tracked"
# Before the keys of torchvision's network in a baseline.
_WITHIN = "network."
# The layers of DenseNet as files from before torchvision 0.3 name them, such as `denselayer1.norm.1`.
_OLD_DENSENET = re.compile(r"(?<=\.)(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")

State = Mapping[str, Any]


def key_map(config: NetworkConfig, source: Source) -> dict[str, str]:
    """Return which key of ``source`` fills each key of the state dict of the network of ``config``; no two the same.

    Raises:
        ValueError: the source is unknown, has no such network, or has nothing for a key, which the message names.
    """
    return _key_map(list(_shapes(config)), config, source)


def convert_state_dict(
    state: State, source: Source, config: NetworkConfig, *, keep_classifier: bool = True
) -> dict[str, Tensor]:
    """Return a state dict of the network of ``config`` with the tensors (not copies) of another library's model.

    The state dict may lie within what a program has saved, under a name such as "model" or "state_dict". A prefix that
    its keys share, such as "module." or "model.", is dropped. Then every key of either side must be used exactly once,
    and every shape must match; weights are finite floating-point numbers. A BatchNorm's ``num_batches_tracked``,
    which files from before torch 0.4.1 lack, becomes 0 if absent, as in torch.

    Args:
        state: the other model's state dict, or what ``torch.load`` has read of a file with it.
        source: whose names it has, see ``SOURCES``.
        config: the same network; its activation, padding and BatchNorm eps are not checked, no state dict tells them.
        keep_classifier: if false, the classifier's keys may be absent or of any shape, and the result is without them.

    Raises:
        ValueError: a key is missing, unknown, double, of the wrong shape or no finite weight; the message names it, and
            how many more. Or there are several state dicts.
    """
    return _convert(state, source, config, _shapes(config), keep_classifier)


def load_weights(model: EfficientNet | Baseline, state: State, source: Source, *, keep_classifier: bool = True) -> None:
    """Copy another library's weights into ``model``, or change nothing; see ``convert_state_dict``.

    Args:
        model: the same network.
        state: the other model's state dict, or what ``torch.load`` has read of a file with it.
        source: whose names it has, see ``SOURCES``.
        keep_classifier: if false, the model's own classifier stays as it is, for other classes.

    Raises:
        ValueError: a key is missing, unknown, double, of the wrong shape or no finite weight; the message names it, and
            how many more. Or there are several state dicts.
    """
    shapes = _shapes_of(model)
    # Not strict only about the classifier: `_convert` has answered for all else.
    model.load_state_dict(_convert(state, source, model.config, shapes, keep_classifier), strict=keep_classifier)


def guess_source(state: State, config: NetworkConfig) -> Source:
    """Return whose names a state dict has: those that most of its keys are, for this network.

    Args:
        state: a state dict, or what ``torch.load`` has read of a file with it.
        config: the network that it should be of.

    Raises:
        ValueError: there are several state dicts, or no source has any of the keys.
    """
    keys = list(_shapes(config))
    found: dict[Source, int] = {}
    for source in SOURCES:
        try:
            names = set(_key_map(keys, config, source).values())
        except ValueError:  # it has no such network
            continue
        found[source] = len(names & _bare(state, names).keys())
    best = max(found, key=lambda source: found[source])
    if not found[best]:
        some = ", ".join(map(repr, list(inner_state(state))[:_LISTED])) or "none at all"
        raise ValueError(f"no library's {config.name} has one of its keys: {some}")
    return best


def fits_classifier(model: EfficientNet | Baseline, state: State, source: Source) -> bool:
    """Whether a state dict has a classifier of as many classes as ``model`` has."""
    names = _key_map(list(model.state_dict()), model.config, source)
    weight = _bare(state, names.values()).get(names[f"{model.config.classifier_name}.weight"])
    return isinstance(weight, Tensor) and weight.shape == model.classifier.weight.shape


@lru_cache(maxsize=8)
def _shapes(config: NetworkConfig) -> Mapping[str, torch.Size]:
    if isinstance(config, BaselineConfig):
        return _shapes_of(Baseline(config, meta=True))
    with torch.device("meta"):
        network = EfficientNet(config)
    return _shapes_of(network)


def _shapes_of(network: EfficientNet | Baseline) -> Mapping[str, torch.Size]:
    return MappingProxyType({key: value.shape for key, value in network.state_dict().items()})


def _key_map(keys: list[str], config: NetworkConfig, source: Source) -> dict[str, str]:
    check_choice("source", source, SOURCES)
    if source == "effnet":
        return {key: key for key in keys}
    if isinstance(config, BaselineConfig):
        if source != LIBRARY:
            raise ValueError(f"{source} has no {config.name}; its weights are torchvision's")
        return {key: key.removeprefix(_WITHIN) for key in keys}
    names = module_names(config, source)
    mapping: dict[str, str] = {}
    for key in keys:
        module, _, leaf = key.rpartition(".")
        if module not in names:
            raise ValueError(f"{source} has no weights for {key!r}")
        mapping[key] = f"{names[module]}.{leaf}"
    return mapping


def _convert(
    state: State, source: Source, config: NetworkConfig, shapes: Mapping[str, torch.Size], keep_classifier: bool
) -> dict[str, Tensor]:
    names = _key_map(list(shapes), config, source)
    theirs = _bare(state, names.values())
    given = theirs.keys() & set(names.values())
    result: dict[str, Tensor] = {}
    problems: dict[str, str] = {}
    for key, name in names.items():
        value = theirs.pop(name, None)
        if key.startswith(f"{config.classifier_name}.") and not keep_classifier:
            continue
        if value is None and key.endswith(_COUNTER):
            value = torch.tensor(0)
        problem = _problem(name, value, source, key, shapes[key], config)
        if problem:
            problems[name] = problem
        else:
            result[key] = value
    unused = config.facts.unused if isinstance(config, BaselineConfig) else ()
    for name in theirs:
        if name.startswith(unused):
            continue
        if (bare := wrapped_name(name)) in given:
            problems[name] = f"the state dict has {bare!r} twice, with and without a wrapper's prefix"
        else:
            problems[name] = f"{config.name} has no use for {name!r} of the {source} state dict"
    if problems:
        first, *others = problems
        listed = ", ".join(map(repr, others[:_LISTED])) + (", …" if len(others) > _LISTED else "")
        more = f"; and {len(others)} more keys that do not fit: {listed}" if others else ""
        raise ValueError(problems[first] + more)
    return result


def _bare(state: State, names: Collection[str]) -> dict[str, Any]:
    """The state dict within ``state``, its keys without the prefix that they share."""
    inner = {_OLD_DENSENET.sub(r"\1", str(key)): value for key, value in inner_state(state).items()}
    prefix = common_prefix(inner, set(names))
    bare = {key.removeprefix(prefix): value for key, value in inner.items()}
    if len(bare) < len(inner):
        double = next(key for key in inner if prefix + key in inner)
        raise ValueError(f"the state dict has {double!r} twice, with and without a wrapper's prefix")
    return bare


def _problem(name: str, value: Any, source: Source, key: str, shape: torch.Size, config: NetworkConfig) -> str | None:
    """Why a value cannot fill our ``key``; None if it can."""
    theirs = f"{name!r} of the {source} state dict"
    if value is None:
        return f"the {source} state dict lacks {name!r}, which fills {key!r}"
    if not isinstance(value, Tensor):
        return f"{theirs} is no tensor, but {type(value).__name__}"
    if value.shape != shape:
        hint = "; keep_classifier=False leaves it out" if key.startswith(f"{config.classifier_name}.") else ""
        return f"{theirs} has the shape {tuple(value.shape)}, but {key!r} of {config.name} has {tuple(shape)}{hint}"
    if key.endswith(_COUNTER):
        return None
    if not value.is_floating_point():
        return f"{theirs} holds {str(value.dtype).removeprefix('torch.')} values; weights are floating-point numbers"
    if not value.is_meta and not bool(value.isfinite().all()):
        return f"{theirs} holds NaN or infinite values; the training that wrote it has diverged"
    return None
