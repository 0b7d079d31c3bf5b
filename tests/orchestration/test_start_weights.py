"""Trials that start from weights in a file, as other programs and our own trainings leave them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.effnet.weights import convert_state_dict
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import TrialPlan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.checkpoint import encode
from effnet_cluster.orchestration.training.model_facts import ModelFacts
from effnet_cluster.orchestration.training.networks import build_network
from effnet_cluster.orchestration.training.normalization import IMAGENET, Normalization

State = dict[str, Tensor]
OURS = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def planned(digits: Manifest, path: Path, **fields: Any) -> TrialPlan:
    recipe = {"weights": str(path), **fields.pop("recipe", {})}
    spec = ExperimentSpec.parse({"name": "x", "variants": "b0", "image_size": 64, **fields, "recipe": recipe})
    return make_plan(spec, digits).trials[0]


def of_torchvision(classes: int) -> State:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    state: State = models.efficientnet_b0(num_classes=classes).state_dict()
    return state


def of_timm(classes: int) -> State:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    state: State = timm.create_model("efficientnet_b0", num_classes=classes).state_dict()
    return state


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


WRAPPINGS: dict[str, Callable[[State], dict[str, Any]]] = {
    "bare": dict,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model, DataParallel": lambda state: {"model": prefixed(state, "module."), "optimizer": {"lr": 0.1}},
    "ema, compiled": lambda state: {"ema": prefixed(state, "_orig_mod.")},
}


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_state_dicts_as_programs_save_them(digits: Manifest, tmp_path: Path, library: str, wrapping: str) -> None:
    state = of_torchvision(10) if library == "torchvision" else of_timm(10)
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "saved.pth")
    network, inputs = build_network(planned(digits, tmp_path / "saved.pth"))
    expected = convert_state_dict(state, "torchvision" if library == "torchvision" else "timm", network.config)
    found = network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert inputs.normalization == IMAGENET
    assert network.training


def test_safetensors(digits: Manifest, tmp_path: Path) -> None:
    pytest.importorskip("safetensors.torch").save_file(of_timm(10), tmp_path / "net.safetensors")
    network, _ = build_network(planned(digits, tmp_path / "net.safetensors"))
    assert torch.equal(network.classifier.weight, of_timm(10)["classifier.weight"])


def test_other_classes_get_a_new_classifier_and_the_log_says_so(
    digits: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = {}
    for classes in (10, 1000):
        torch.save(of_torchvision(classes), tmp_path / "net.pth")
        with caplog.at_level(logging.INFO, "effnet_cluster"):
            caplog.clear()
            network, _ = build_network(planned(digits, tmp_path / "net.pth"))
        assert torch.equal(network.stem.conv.weight, of_torchvision(classes)["features.0.0.weight"])
        said[classes] = caplog.messages[-1]
        kept = torch.equal(network.classifier.weight, of_torchvision(classes)["classifier.1.weight"][:10])
        assert kept == (classes == 10)
    assert said[10].endswith("named as torchvision names them, with its classifier of 10 classes")
    assert said[1000].endswith("named as torchvision names them, with a new classifier of 10 classes")


@pytest.mark.parametrize("ema", [False, True], ids=["weights", "average"])
@pytest.mark.parametrize("place", ["00001-000000.pt", "", "checkpoints"], ids=["file", "folder", "trial"])
def test_a_checkpoint_of_ours_brings_its_normalisation(digits: Manifest, tmp_path: Path, ema: bool, place: str) -> None:
    config = variant("b0", num_classes=10)
    networks = [EfficientNet(config).state_dict() for _ in range(2)]
    facts = ModelFacts(config, tuple("0123456789"), 64, 73, OURS)
    folder = tmp_path / "checkpoints" if place == "checkpoints" else tmp_path
    folder.mkdir(exist_ok=True)
    state = {"model": networks[0], "ema": {"network": networks[1]} if ema else None, "facts": facts.to_dict()}
    (folder / "00001-000000.pt").write_bytes(encode(state))
    path = tmp_path / place if place.endswith(".pt") else tmp_path
    network, inputs = build_network(planned(digits, path))
    assert torch.equal(network.head.conv.weight, networks[ema]["head.conv.weight"])
    assert inputs.normalization == OURS


class Code:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (lambda path: torch.save({"state_dict": Code()}, path), "holds no weights that can be read without running"),
        (
            lambda path: path.write_text("no weights"),
            "holds no weights: torch.save writes no such file; it begins with",
        ),
        (lambda path: path.write_bytes(b""), "holds no weights: it is empty"),
        (lambda path: torch.save([1, 2], path), "holds no state dict, but list"),
        (lambda path: torch.save({}, path), "no library's b0 has one of its keys: none at all"),
        (lambda path: torch.save({"a.b": torch.ones(2)}, path), r"no library's b0 has one of its keys: 'a\.b'"),
        (
            lambda path: torch.save(of_torchvision(10) | {"more": torch.ones(1)}, path),
            "b0 has no use for 'more'",
        ),
        (
            lambda path: torch.save({"model": of_torchvision(10), "ema": of_torchvision(10)}, path),
            "there are several state dicts, at ",
        ),
        (lambda path: None, "No such file or directory"),
    ],
    ids=["code", "text", "empty", "list", "nothing", "other", "more", "several", "absent"],
)
def test_what_cannot_be_a_start_is_one_line(
    digits: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str], saved: Callable[[Path], Any], told: str
) -> None:
    path = tmp_path / "net.pth"
    saved(path)
    with pytest.raises(UserError, match=rf"^digits-b0-silu-s0 cannot start from these weights: .*{told}") as raised:
        build_network(planned(digits, path))
    assert "\n" not in str(raised.value)
    assert "this must not run" not in capsys.readouterr().out


def test_another_network_is_told_by_what_does_not_fit(digits: Manifest, tmp_path: Path) -> None:
    torch.save(of_torchvision(10), tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"the torchvision state dict lacks '.*'; and \d+ more keys that do not fit"):
        build_network(planned(digits, tmp_path / "net.pth", variants="b1"))


def test_the_recipe_takes_one_start(digits: Manifest) -> None:
    recipe = planned(digits, Path("net.pth"), recipe={"name": "transfer"}).recipe
    assert (recipe.weights, recipe.pretrained, recipe.backbone_lr) == ("net.pth", False, 0.1)
    with pytest.raises(UserError, match="weights and pretrained are two starts; leave out one"):
        planned(digits, Path("net.pth"), recipe={"pretrained": True})
