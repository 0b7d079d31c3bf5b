"""Exported files compute what the network computes, at any batch size."""

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effnet_cluster.effnet import EfficientNet, EfficientNetConfig, variant
from effnet_cluster.effnet.activations import ACTIVATION_NAMES
from effnet_cluster.effnet.export import FORMATS, TOLERANCE, ExportError, Format, Interface, export_model
from effnet_cluster.effnet.stages import SHORTCUTS

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 7
EFFICIENTNETS = [f"b{size}" for size in range(8)]
OTHER_FAMILIES = ["lite0", "tf_b0", "mobilenetv2", "resnet50"]
# Each is a part of the images that BatchNorm took its statistics from: others can be so far from them that a random
# network amplifies what float32 rounds off. None has the size that the export sees, which is 3.
BATCHES = (slice(0, 1), slice(1, 3), slice(3, 8))


def make_network(config: EfficientNetConfig, *size: int) -> EfficientNet:
    """The first of some random networks on which float32 itself is precise enough to tell a mistake from rounding.

    Steps (Hardshrink) and steep parts can turn what is rounded off into more than the tolerance.
    """
    images = make_images(16, *size)
    for seed in range(5):
        network = random_network(config, images, seed)
        with torch.no_grad():
            logits = network(images[:8])
            rounding = (logits - deepcopy(network).double()(images[:8].double())).abs().max()
        if rounding < TOLERANCE / 2:
            assert 0.2 < logits.std(0).mean() < 5, "a network that says the same of every image would test little"
            return network
    raise AssertionError(f"float32 alone is off by {rounding:.1e}: these networks would test rounding")


def random_network(config: EfficientNetConfig, images: Tensor, seed: int) -> EfficientNet:
    """A network whose logits are of the order of 1 and depend on the image: a fresh one's hide every mistake."""
    torch.manual_seed(seed)
    network = EfficientNet(replace(config, num_classes=CLASSES))
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            # As training does too: branches that add little to their shortcut keep a deep network from being chaotic.
            nn.init.constant_(module.weight, 0.3 if name.endswith("project.norm") else 1.0)
    with torch.no_grad():
        network.train()(images)
        network.eval()
        features = network.features(images).mean((2, 3))
        network.classifier.weight.copy_(torch.randn(network.classifier.weight.shape) / features.std(0).norm())
        network.classifier.bias.copy_(torch.randn(CLASSES) - network.classifier(features.mean(0)))
    return network


def make_images(count: int, height: int = 61, width: int = 64) -> Tensor:
    """Odd in one direction: there the strides, which round up, are easy to get wrong."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def check(network: EfficientNet, form: Format, path: Path, *size: int) -> None:
    """Export, then run the file by its own engine, apart from the check that `export_model` makes itself."""
    pool = make_images(16, *size)
    assert export_model(network, path, form, [pool[:3], *(pool[part] for part in BATCHES)], Interface()) <= TOLERANCE
    for part in BATCHES:
        images = pool[part]
        with torch.no_grad():
            expected, actual = network(images), run(form, path, images)
        assert actual.shape == (len(images), CLASSES)
        torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def run(form: Format, path: Path, images: Tensor, name: str = "images") -> Tensor:
    if form == "pt2":
        output: Tensor = torch.export.load(path).module()(images)
        return output
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def tiny(config: EfficientNetConfig) -> EfficientNetConfig:
    """One block, of the kind that has every part: every operator of the variant in a fraction of the time."""
    return replace(config, depth=0.1, stages=(config.stages[2],))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", [*EFFICIENTNETS, *OTHER_FAMILIES])
def test_every_variant_s_widths(name: str, form: Format, tmp_path: Path) -> None:
    check(make_network(tiny(variant(name))), form, tmp_path / f"model.{form}")


# Depth repeats the operators that the test of all widths has.
@pytest.mark.parametrize(
    "name", ["b0", pytest.param("b4", marks=pytest.mark.long), pytest.param("b7", marks=pytest.mark.long)]
)
def test_variants_in_full(name: str, tmp_path: Path) -> None:
    network = make_network(variant(name))
    for form in FORMATS:
        check(network, form, tmp_path / f"model.{form}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation(activation: str, form: Format, tmp_path: Path) -> None:
    # Hardshrink jumps: of fewer pixels, none is so near the edge that rounding decides.
    size = (21, 24) if activation == "hardshrink" else (61, 64)
    check(make_network(tiny(variant("b0", activation=activation)), *size), form, tmp_path / f"model.{form}", *size)


@pytest.mark.parametrize("shortcut", [kind for kind in SHORTCUTS if kind != "residual"])
def test_every_shortcut_as_onnx(shortcut: str, tmp_path: Path) -> None:
    check(make_network(tiny(variant("b0", shortcut=shortcut))), "onnx", tmp_path / "model.onnx")


def test_the_interface_is_in_the_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "model.onnx"
    dynamic = {0: "batch", 2: "height", 3: "width"}
    interface = Interface("pixels", "scores", dynamic, {"classes": ["a", "b"], "by": "me"})
    network = make_network(tiny(variant("b0")))
    sizes = ((1, 40, 64), (2, 33, 33), (5, 64, 31))
    export_model(network, path, "onnx", [make_images(3), *(make_images(*size) for size in sizes)], interface)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)

    def dimensions(value: object) -> list[int | str]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]  # type: ignore[attr-defined]

    assert [(i.name, dimensions(i)) for i in model.graph.input] == [("pixels", ["batch", 3, "height", "width"])]
    assert [(o.name, dimensions(o)) for o in model.graph.output] == [("scores", ["batch", CLASSES])]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"classes": '["a", "b"]', "by": "me"}
    images = make_images(4, 50, 45)
    with torch.no_grad():
        torch.testing.assert_close(run("onnx", path, images, "pixels"), network(images), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("form", FORMATS)
def test_same_padding_exports_with_any_height_and_width(form: Format, tmp_path: Path) -> None:
    """Three strides of the stages' after the stem's: formulas of sizes that double at each would take minutes."""
    config = variant("tf_b0", width=0.25, depth=0.1)
    network = make_network(replace(config, stages=config.stages[:4]))
    interface = Interface(dynamic={0: "batch", 2: "height", 3: "width"})
    path, sizes = tmp_path / f"model.{form}", ((1, 40, 64), (2, 33, 34), (5, 64, 35), (2, 47, 49))
    export_model(network, path, form, [make_images(3), *(make_images(*size) for size in sizes)], interface)
    images = make_images(4, 38, 57)
    with torch.no_grad():
        torch.testing.assert_close(run(form, path, images), network(images), atol=TOLERANCE, rtol=0)


def test_notes_are_in_the_pt2_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    export_model(
        make_network(tiny(variant("b0"))), path, "pt2", [make_images(2)], Interface(notes={"classes": ["a", "b"]})
    )
    extra = {"notes.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["notes.json"]) == {"classes": ["a", "b"]}


class Elsewhere(nn.Module):
    """Differs where it was not traced: the branch is taken once, when the example runs."""

    def forward(self, images: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return images.mean((2, 3))
        return images.mean((2, 3)) + 2 * TOLERANCE


class Untraceable(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images * float(images.sum().item() > 0 and images.numel())


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_disagrees_is_not_kept(form: Format, tmp_path: Path) -> None:
    path = tmp_path / f"model.{form}"
    path.write_bytes(b"the one before")
    with pytest.raises(ExportError, match=r"shape \(2, 3, 61, 64\) the file differs from the model by 0.0002,"):
        export_model(Elsewhere().eval(), path, form, [make_images(2)], Interface())
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the exporter refuses the model: ") as caught:
        export_model(Untraceable().eval(), tmp_path / "model.pt2", "pt2", [make_images(2)], Interface())
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    network, path = make_network(tiny(variant("b0"))), tmp_path / "model.pt2"
    with pytest.raises(ValueError, match="unknown format 'tflite'; known: onnx, pt2"):
        export_model(network, path, "tflite", [make_images(2)], Interface())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least 2 of each dynamic dimension, not \(1, 3, 61, 64\)"):
        export_model(network, path, "pt2", [make_images(1)], Interface())
    with pytest.raises(ValueError, match="training mode"):
        export_model(network.train(), path, "pt2", [make_images(2)], Interface())
    with pytest.raises(FileNotFoundError):
        export_model(network.eval(), tmp_path / "nowhere" / "model.pt2", "pt2", [make_images(2)], Interface())
    assert not list(tmp_path.iterdir())


def test_importing_needs_no_onnx() -> None:
    script = "import sys, effnet_cluster.effnet.export\nprint(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert set(result.stdout.split()).isdisjoint({"onnx", "onnxscript", "onnxruntime", "matplotlib"})
