"""State dicts as programs save them: wrapped, prefixed, diverged, rounded; all of it taken, or one clear line."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_cluster.effnet import EfficientNet, load_weights, variant
from effnet_cluster.effnet.layouts import SOURCES, Source
from effnet_cluster.effnet.weights import convert_state_dict, key_map

CONFIG = variant("b0", width=0.3, depth=0.5, num_classes=3)
State = dict[str, Any]
Change = Callable[[State], State]


def state_of(source: Source, seed: int = 1) -> State:
    """A state dict with another library's names."""
    torch.manual_seed(seed)
    ours = EfficientNet(CONFIG).state_dict()
    return {theirs: ours[key] for key, theirs in key_map(CONFIG, source).items()}


def prefixed(prefix: str) -> Change:
    return lambda state: {prefix + key: value for key, value in state.items()}


def beside(**more: Any) -> Change:
    return lambda state: {"state_dict": state, **more}


WRAPPED: dict[str, Change] = {
    **{name: lambda state, name=name: {name: state} for name in ("state_dict", "model", "model_state_dict", "ema")},
    "lightning": lambda state: {"epoch": 3, "state_dict": prefixed("model.")(state), "hyper_parameters": {"lr": 0.1}},
    "data-parallel": lambda state: {"model": prefixed("module.")(state), "optimizer": {"state": {0: {"step": 1}}}},
    "compiled": prefixed("_orig_mod."),
    "three prefixes": prefixed("model.module._orig_mod."),
    "a prefix of their own": prefixed("net.backbone."),
    "two deep": lambda state: {"state_dict": {"model": state}},
    "accuracy as a tensor": beside(best_acc1=torch.tensor(76.1)),
    "no average": beside(ema=None, model="b0"),
    "our own checkpoint": lambda state: {"format": 3, "facts": {"image_size": 32}, "model": state, "ema": None},
    "our own average": lambda state: {"ema": {"updates": 5, "network": state}},
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("change", WRAPPED.values(), ids=WRAPPED)
def test_what_is_wrapped_around_a_state_dict_is_taken_off(change: Change, source: Source) -> None:
    state = state_of(source)
    loaded = convert_state_dict(change(state), source, CONFIG)
    assert loaded.keys() == EfficientNet(CONFIG).state_dict().keys()
    assert all(loaded[key] is state[name] for key, name in key_map(CONFIG, source).items())


def test_a_networks_only_part_is_no_prefix() -> None:
    """Without its classifier, torchvision's network has `features.` before every key."""
    state = {key: value for key, value in state_of("torchvision").items() if key.startswith("features.")}
    for change in (dict, prefixed("model.")):
        assert len(convert_state_dict(change(state), "torchvision", CONFIG, keep_classifier=False)) == len(state)


def with_value(key: str, change: Callable[[Tensor], Any]) -> Change:
    return lambda state: state | {key: change(state[key])}


def one_bad(value: float) -> Callable[[Tensor], Tensor]:
    def change(weight: Tensor) -> Tensor:
        weight = weight.clone()
        weight.view(-1)[-1] = value
        return weight

    return change


def half_prefixed(state: State) -> State:
    return {("model." if number % 3 == 0 else "") + key: value for number, (key, value) in enumerate(state.items())}


LAST = "classifier.weight"
REFUSED: dict[str, tuple[Change, str]] = {
    "nan": (with_value("head.conv.weight", one_bad(float("nan"))), "'head.conv.weight' .* holds NaN or infinite"),
    "infinite": (with_value("stem.norm.running_var", one_bad(float("inf"))), "'stem.norm.running_var' .* infinite"),
    "minus infinite in 16 bits": (
        with_value(LAST, lambda weight: one_bad(float("-inf"))(weight.half())),
        "'classifier.weight' .* infinite",
    ),
    "integers": (with_value(LAST, lambda weight: weight.mul(127).to(torch.int8)), "'classifier.weight' .* int8 values"),
    "int64": (with_value(LAST, Tensor.long), "'classifier.weight' .* int64 values"),
    "booleans": (with_value(LAST, Tensor.bool), "'classifier.weight' .* bool values"),
    "complex": (with_value(LAST, lambda weight: weight.to(torch.complex64)), "'classifier.weight' .* complex64 values"),
    "another shape": (with_value(LAST, lambda weight: weight[:2]), r"'classifier.weight' .* shape \(2, .* has \(3, "),
    "turned": (with_value("head.conv.weight", Tensor.squeeze), r"'head.conv.weight' .* the shape \(\d+, \d+\), but"),
    "half with a prefix": (half_prefixed, "more keys that do not fit: "),
    "a loss beside the model": (
        lambda state: {"state_dict": prefixed("model.")(state) | {"criterion.weight": torch.ones(3)}},
        "b0 has no use for 'criterion.weight'",
    ),
    "a model and its average": (
        lambda state: {"model": state, "ema": state},
        r"there are several state dicts, at \['model'\] and \['ema'\]; pass the one that is meant",
    ),
    "student and teacher": (
        lambda state: prefixed("student.")(state) | prefixed("teacher.")(state),
        "has the network twice, under 'student.' and 'teacher.'",
    ),
    "under both names": (
        lambda state: prefixed("model.")(state) | {LAST: state[LAST]},
        "the state dict has 'classifier.weight' twice",
    ),
    "nothing": (lambda state: {}, "lacks 'stem.conv.weight', .*; and [0-9]+ more keys that do not fit: 'stem.norm.we"),
    "an empty wrapper": (lambda state: {"state_dict": {}}, "lacks 'stem.conv.weight'"),
    "numbers for keys": (lambda state: dict(enumerate(state.values())), "lacks 'stem.conv.weight'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_told_in_one_line_and_nothing_is_loaded(change: Change, message: str) -> None:
    model = EfficientNet(CONFIG)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(model, change(state_of("effnet")), "effnet")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_all_that_does_not_fit_is_counted_and_the_first_are_named() -> None:
    state = state_of("timm")
    gone = [key for key in state if key.startswith("blocks.0.0.")]
    kept = {key: value for key, value in state.items() if key not in gone and not key.endswith("tracked")}
    missing = [key for key in gone if not key.endswith("tracked")]  # counters may be absent
    with pytest.raises(ValueError, match=re.escape(repr(missing[0]))) as caught:
        convert_state_dict(kept | {"extra.weight": torch.ones(1)}, "timm", CONFIG)
    assert f"and {len(missing)} more keys that do not fit: {missing[1]!r}, " in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_formats_are_taken(dtype: torch.dtype) -> None:
    model, state = EfficientNet(CONFIG), state_of("effnet")
    load_weights(model, {key: value.to(dtype) for key, value in state.items()}, "effnet")
    torch.testing.assert_close(model.classifier.weight.data, state[LAST].to(dtype).float())
