"""Figures of a trial's model: against numbers worked out by hand, and against the model asked directly."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from effnet_cluster.datasets import EvalLoader, Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.report import trial_figures as module
from effnet_cluster.orchestration.report.trial_figures import trial_figures
from effnet_cluster.orchestration.tracking.examination import Examination, Seen, examine
from effnet_cluster.orchestration.tracking.trained import TrainedModel
from effnet_cluster.orchestration.training.classifier import NormalizedModel
from effnet_cluster.orchestration.training.model_facts import ModelFacts

RED, BLUE = (np.full((32, 32, 3), color, np.uint8) for color in ([255, 0, 0], [0, 0, 255]))
ONE = Examination(
    classes=("rose", "$\\broken$ <b>tulip</b> with a name that is long", "daisy, white", "never seen"),
    targets=np.array([0, 0, 0, 0, 1, 1, 2, 2]),
    predicted=np.array([0, 0, 0, 1, 1, 2, 2, 2]),
    confidence=np.full(8, 0.75),
    images=20,
    mistakes=[Seen(RED, 1, 2, 0.75, np.eye(32, dtype=np.float32)), Seen(BLUE, 0, 1, 0.5)],
    examples=[Seen(BLUE, 0, 0, 0.75)],
)


def pixels(content: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def test_the_numbers_of_each_class_by_hand() -> None:
    assert trial_figures(ONE)["classes.csv"].decode().splitlines() == [
        "class,images,right,accuracy",
        "rose,4,3,0.75",
        "$\\broken$ <b>tulip</b> with a name that is long,2,1,0.5",
        '"daisy, white",2,2,1.0',
    ]


def test_the_pictures_show_the_images_in_their_order_with_their_maps_beside_them() -> None:
    files = trial_figures(ONE)
    assert set(files) == {"classes.csv", "classes.png", "confusion.png", "errors.png", "maps.png"}
    shown = pixels(files["errors.png"])
    middle = shown[module._TEXT * 2 + module._SIDE // 2]  # through the first row of pictures
    assert middle[module._GAP + module._SIDE // 2].tolist() == [255, 0, 0]
    map_of_first = middle[2 * module._GAP + module._SIDE : 2 * module._SIDE]
    assert (map_of_first.max(axis=1) < 255).all()
    second = 2 * (module._SIDE + module._GAP)
    assert middle[module._GAP + second + module._SIDE // 2].tolist() == [0, 0, 255]
    assert {"white", "dark"} == {
        "white" if pixel.min() > 250 else "dark" for pixel in pixels(files["confusion.png"])[:, 250]
    }
    many = Examination(tuple(map(str, range(101))), ONE.targets, ONE.predicted, ONE.confidence, 8)
    assert set(trial_figures(many)) == {"classes.csv", "classes.png"}
    nothing = np.empty(0, np.int64)
    assert trial_figures(Examination(("a",), nothing, nothing, np.empty(0), 8)) == {}


@pytest.mark.usefixtures("one_thread")
def test_an_examination_is_what_the_model_says(digits: Manifest) -> None:
    torch.manual_seed(0)
    config = variant("b0", width=0.25, depth=0.25, num_classes=10)
    network = EfficientNet(config)
    (batch,) = EvalLoader(digits, image_size=32, resize=32, batch_size=359)
    # A network that tells images apart: with the images' own statistics, and large weights at its end.
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.inference_mode():
        network.train()(NormalizedModel(torch.nn.Identity())(batch.images))
        network.eval().classifier.weight.mul_(30)
    facts = ModelFacts(config, tuple(digits.classes), 32, 32)
    trained = TrainedModel("here", network, facts)
    said = examine(trained, digits, 60.0, mistakes=5, examples=3)
    with torch.inference_mode():
        probabilities = NormalizedModel(network, facts.normalization).eval()(batch.images).softmax(1)
    assert probabilities.amax(1).std() > 0.05
    assert said.targets.tolist() == batch.labels.tolist()
    # Another size of batches rounds otherwise.
    assert np.mean(said.predicted == probabilities.argmax(1).numpy()) > 0.99
    np.testing.assert_allclose(said.confidence, probabilities.amax(1).numpy(), atol=1e-5)
    wrong = probabilities.amax(1)[probabilities.argmax(1) != batch.labels].sort(descending=True).values[:5]
    np.testing.assert_allclose([one.probability for one in said.mistakes], wrong.numpy(), atol=1e-5)
    firsts = {int(label): number for number, label in reversed(list(enumerate(batch.labels)))}
    for one in said.examples:
        assert (one.image == batch.images[firsts[one.target]].permute(1, 2, 0).numpy()).all()
    assert len({one.target for one in said.examples}) == 3
    assert all(one.map is not None and one.map.shape == (32, 32) for one in said.mistakes)
    some = examine(trained, digits, 60.0, mistakes=0, most=100)
    assert (some.images, len(said.targets)) == (359, 359)
    assert 80 <= len(some.targets) <= 120
    assert examine(trained, digits, 0.0, mistakes=0).targets.shape == (16,)  # no time: one batch
