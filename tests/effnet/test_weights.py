"""Foreign state dicts: what is kept of them, and one clear line where they do not fit (`test_exactness`: they do)."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_cluster.effnet import VARIANTS, EfficientNet, EfficientNetConfig, load_weights, variant
from effnet_cluster.effnet.layouts import Source, module_names
from effnet_cluster.effnet.stages import StageConfig
from effnet_cluster.effnet.weights import convert_state_dict, key_map

SMALL: dict[str, Any] = {"width": 0.3, "depth": 0.5, "num_classes": 3}
CONFIG = variant("b0", **SMALL)


def as_timm(config: EfficientNetConfig, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of the network ``config`` with timm's names."""
    torch.manual_seed(seed)
    ours = EfficientNet(config).state_dict()
    return {theirs: ours[key] for key, theirs in key_map(config, "timm").items()}


@pytest.mark.parametrize("name", ["b0", "tf_b3", "lite2", "mobilenetv2"])
def test_efficientnet_pytorch_names_are_unique_and_differ_from_ours(name: str) -> None:
    mapping = key_map(VARIANTS[name], "efficientnet_pytorch")
    assert len({*mapping.values()}) == len(mapping)
    assert {*mapping.values()}.isdisjoint(mapping)


def test_our_own_state_dict_is_taken_as_it_is() -> None:
    state = EfficientNet(CONFIG).state_dict()
    assert convert_state_dict(state, "effnet", CONFIG) == state


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_dropped(prefix: str) -> None:
    state = as_timm(CONFIG)
    wrapped = {prefix + key: value for key, value in state.items()}
    assert convert_state_dict(wrapped, "timm", CONFIG) == convert_state_dict(state, "timm", CONFIG)


def test_a_compiled_model_loads_back() -> None:
    model = EfficientNet(CONFIG)
    twin = EfficientNet(CONFIG)
    load_weights(twin, torch.compile(model).state_dict(), "effnet")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_result_holds_the_tensors_themselves_and_loading_copies_them() -> None:
    state = as_timm(CONFIG)
    assert convert_state_dict(state, "timm", CONFIG)["stem.conv.weight"] is state["conv_stem.weight"]
    model = EfficientNet(CONFIG)
    load_weights(model, state, "timm")
    assert torch.equal(model.stem.conv.weight, state["conv_stem.weight"])
    assert model.stem.conv.weight.data_ptr() != state["conv_stem.weight"].data_ptr()


def test_counters_of_old_files_may_be_absent() -> None:
    state = {key: value for key, value in as_timm(CONFIG).items() if not key.endswith("num_batches_tracked")}
    counters = {k: v for k, v in convert_state_dict(state, "timm", CONFIG).items() if k.endswith("tracked")}
    assert len(counters) > 10
    assert all(value.shape == () and value == 0 and value.dtype == torch.int64 for value in counters.values())


@pytest.mark.parametrize("state_has_one", [True, False])
def test_without_its_classifier_a_state_dict_fits_any_classes(state_has_one: bool) -> None:
    state = as_timm(CONFIG)
    if not state_has_one:
        state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    model = EfficientNet(variant("b0", **(SMALL | {"num_classes": 5})))
    before = model.classifier.weight.clone()
    load_weights(model, state, "timm", keep_classifier=False)
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.head.conv.weight, state["conv_head.weight"])
    converted = convert_state_dict(state, "timm", model.config, keep_classifier=False)
    assert {*model.state_dict()} - {*converted} == {"classifier.weight", "classifier.bias"}


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: without(state, "blocks.1.0.se.conv_reduce.bias"),
            "the timm state dict lacks 'blocks.1.0.se.conv_reduce.bias', which fills 'stages.1.0.se.reduce.bias'",
        ),
        (
            lambda state: state | {"blocks.9.0.conv_pw.weight": torch.zeros(1)},
            "b0 has no use for 'blocks.9.0.conv_pw.weight' of the timm state dict",
        ),
        (
            lambda state: state | {"bn1.weight": torch.zeros(3)},
            "'bn1.weight' of the timm state dict has the shape (3,), but 'stem.norm.weight' of b0 has (16,)",
        ),
        (
            lambda state: state | {"classifier.bias": torch.zeros(1000)},
            "'classifier.bias' of the timm state dict has the shape (1000,), but 'classifier.bias' of b0 has (3,); "
            "keep_classifier=False leaves it out",
        ),
        (
            lambda state: state | {"module.bn1.weight": torch.zeros(16)},
            "the state dict has 'bn1.weight' twice, with and without a wrapper's prefix",
        ),
        (
            lambda state: state | {"bn1.weight": [1.0]},
            "'bn1.weight' of the timm state dict is no tensor, but list",
        ),
    ],
    ids=["missing", "unknown", "shape", "classifier", "twice", "no-tensor"],
)
def test_a_broken_state_dict_is_refused_and_nothing_is_loaded(change: Any, message: str) -> None:
    model = EfficientNet(CONFIG)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = change(as_timm(CONFIG, seed=1))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_weights(model, broken, "timm")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "source", "message"),
    [
        (CONFIG, "keras", "unknown source 'keras'; known: effnet, torchvision"),
        (variant("resnet50"), "efficientnet_pytorch", "efficientnet_pytorch has no network with bottleneck blocks"),
        (variant("b0", activation="prelu"), "timm", "timm has no weights for 'stem.act.weight'"),
        (variant("b0", shortcut="identity_conv"), "timm", "timm has no weights for 'stages.0.0.shortcut.0.weight'"),
        (
            variant(
                "mobilenetv2", stages=(StageConfig(1, 3, 1, 16, 1), StageConfig(4, 3, 1, 16, 1, block="bottleneck"))
            ),
            "torchvision",
            "torchvision has no network with bottleneck and mbconv blocks",
        ),
    ],
    ids=["source", "resnet", "prelu", "shortcut", "mixed"],
)
def test_what_no_library_has_is_refused(config: EfficientNetConfig, source: Source, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        key_map(config, source)


def test_names_are_asked_only_of_others() -> None:
    with pytest.raises(ValueError, match=r"^unknown source 'effnet'; known: torchvision"):
        module_names(CONFIG, "effnet")
