"""Class activation maps against an independent library, and against what the papers say of them."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.effnet.cam import ActivationMaps, class_activation_map, deepest_layer, grad_cam, normalize

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 6


def make_network(activation: str = "silu") -> EfficientNet:
    """A small network whose BatchNorm statistics and classifier are those of none that is fresh."""
    torch.manual_seed(0)
    network = EfficientNet(variant("b0", depth=0.3, width=0.5, num_classes=CLASSES, activation=activation))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    nn.init.normal_(network.classifier.weight)
    nn.init.normal_(network.classifier.bias)
    return network.eval()


def make_images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 96, 64, generator=torch.Generator().manual_seed(1))


def layer_of(network: EfficientNet, name: str) -> nn.Module:
    return network.get_submodule(name)


# A layer that an in-place activation follows is left out with ReLU: the library reads it after it was overwritten.
@pytest.mark.parametrize(
    ("layer", "activation"),
    [
        ("head", "silu"),
        ("stages.3", "silu"),
        ("stages.1.0.depthwise.norm", "silu"),
        ("head", "relu"),
        ("stages.3", "relu"),
    ],
)
def test_grad_cam_is_the_independent_library_s(layer: str, activation: str) -> None:
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    network, images = make_network(activation), make_images()
    ranked = network(images).argsort(1, descending=True)
    classes = [*ranked[:3, 0].tolist(), int(ranked[3, 1])]  # three predictions and one that was not

    class Recorder(pytorch_grad_cam.GradCAM):  # type: ignore[misc, name-defined]
        """Keeps the maps from before the library's normalisation."""

        def get_cam_image(self, *args: object, **kwargs: object) -> object:
            self.raw = super().get_cam_image(*args, **kwargs)
            return self.raw

    with Recorder(network, [layer_of(network, layer)]) as theirs:
        theirs_at_image_size = theirs(images, [targets.ClassifierOutputTarget(index) for index in classes])
    ours = grad_cam(network, images, classes, layer_of(network, layer))

    their_raw = torch.from_numpy(theirs.raw).relu()
    scale = their_raw.amax()
    assert their_raw.amax((1, 2)).count_nonzero() >= 3, "maps of zeros would agree too easily"
    torch.testing.assert_close(ours.raw / scale, their_raw / scale, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.image_maps, torch.from_numpy(theirs_at_image_size), atol=1e-4, rtol=0)


def test_without_classes_the_library_and_we_explain_the_prediction() -> None:
    pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
    network, images = make_network(), make_images()
    with pytorch_grad_cam.GradCAM(network, [network.head]) as theirs:
        expected = torch.from_numpy(theirs(images, None))
    ours = grad_cam(network, images)
    assert torch.equal(ours.classes, network(images).argmax(1))
    torch.testing.assert_close(ours.image_maps, expected, atol=1e-4, rtol=0)


def test_the_plain_map_s_mean_is_the_logit_without_its_bias() -> None:
    network, images = make_network(), make_images()
    maps = class_activation_map(network, images, 2)
    logits = network(images)
    torch.testing.assert_close(maps.logits, logits.detach())
    bias = network.classifier.bias[2]
    torch.testing.assert_close(maps.raw.mean((1, 2)) + bias, logits[:, 2])


def test_grad_cam_at_the_head_is_the_plain_map_s_positive_part() -> None:
    """Selvaraju et al. 2017, section 3.1: with pooling and a linear layer, the weights differ by 1 / (h w)."""
    network, images = make_network(), make_images()
    plain, gradient = class_activation_map(network, images), grad_cam(network, images)
    positions = plain.raw[0].numel()
    torch.testing.assert_close(gradient.raw * positions, plain.raw.relu(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_shapes_and_ranges(method: object) -> None:
    assert callable(method)
    classes = make_network()(make_images(3)).argmax(1)
    found: ActivationMaps = method(make_network(), make_images(3), classes)
    assert found.raw.shape == found.maps.shape == (3, 3, 2)
    assert found.image_maps.shape == (3, 96, 64)
    assert found.logits.shape == (3, CLASSES)
    assert torch.equal(found.classes, classes)
    for maps in (found.maps, found.image_maps):
        assert maps.amin((1, 2)).tolist() == [0] * 3
        assert maps.amax((1, 2)).tolist() == [1] * 3
    assert not any(tensor.requires_grad for tensor in (found.raw, found.logits, found.image_maps))


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_a_batch_gives_what_each_image_gives(method: object) -> None:
    assert callable(method)
    network, images = make_network(), make_images()
    together = method(network, images, [0, 1, 2, 3])
    for index in range(4):
        alone = method(network, images[index : index + 1], index)
        torch.testing.assert_close(alone.raw[0], together.raw[index], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_the_network_is_left_as_it_was(method: object) -> None:
    assert callable(method)
    network = make_network().train()
    network.stem.eval()
    network.classifier.weight.grad = torch.ones_like(network.classifier.weight)
    network.head.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    expected = method(make_network(), make_images()).raw
    torch.testing.assert_close(method(network, make_images()).raw, expected)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network.classifier.weight.grad.eq(1).all()
    assert network.stem.conv.weight.grad is None
    assert not network.head._forward_hooks


def test_grad_cam_works_where_gradients_are_off_and_weights_frozen() -> None:
    network = make_network().requires_grad_(False)
    with torch.no_grad():
        found = grad_cam(network, make_images(), 1)
    torch.testing.assert_close(found.raw, grad_cam(make_network(), make_images(), 1).raw)


def test_a_map_that_points_nowhere_is_zero() -> None:
    assert normalize(torch.full((2, 3, 3), 4.0)).eq(0).all()
    assert normalize(torch.tensor([[[1e-12, 3e-12]]])).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
def test_the_map_of_one_position_is_no_map_and_says_so(method: object) -> None:
    """Interpolating a constant leaves rounding errors, which normalising would blow up to the full range."""
    assert callable(method)
    found = method(make_network(), torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    assert found.raw.shape == (16, 1, 1)
    assert found.raw.abs().max() > 0.1
    assert not found.has_contrast.any()
    assert found.maps.eq(0).all()
    assert found.image_maps.eq(0).all()


@pytest.mark.parametrize(("change", "expected"), [(0, False), (1e-6, False), (1e-2, True)])
@pytest.mark.parametrize("size", [1e-9, -3.0, 1e6])
def test_contrast_is_relative_to_the_size_of_the_map(size: float, change: float, expected: bool) -> None:
    raw = torch.full((2, 4, 4), size)
    raw[1, 2, 1] *= 1 + change
    found = ActivationMaps(torch.zeros(2, 1), torch.zeros(2), raw, (30, 30))
    assert found.has_contrast.tolist() == [False, expected]
    for maps in (found.maps, found.image_maps):
        assert maps.amax((1, 2)).tolist() == [0, float(expected)]


@pytest.mark.parametrize("name", ["b0", "b0-d0.3", "tf_b0", "resnet50", "mobilenetv2", "lite0"])
@pytest.mark.parametrize("size", [(14, 14), (32, 32), (64, 64), (97, 130), (224, 224), (6, 300)])
def test_the_deepest_layer_with_seven_positions_is_found_without_running_it(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = EfficientNet(variant(name, num_classes=2)).eval()
        layers = [network.stem, *network.stages, network.head]
        sizes: dict[int, int] = {}
        for number, layer in enumerate(layers):
            layer.register_forward_hook(lambda _, __, out, number=number: sizes.update({number: min(out.shape[2:])}))
        network(torch.empty(1, 3, *size))
    deep_enough = [number for number in range(len(layers)) if sizes[number] >= 7]
    assert deepest_layer(network, size) is layers[deep_enough[-1] if deep_enough else 0]


def test_a_small_image_has_a_map_with_places_at_the_layer_that_is_found() -> None:
    network = make_network()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    found = grad_cam(network, images, None, deepest_layer(network, 32))
    assert found.raw.shape == (4, 8, 8)
    assert found.has_contrast.all()
    torch.testing.assert_close(found.logits, network(images).detach())


@pytest.mark.parametrize("method", [class_activation_map, grad_cam])
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (CLASSES, "class 6 is outside 0 to 5"),
        (-1, "class -1 is outside 0 to 5"),
        ([0, 1, 9, 2], "is outside 0 to 5"),
        ([0, 1], "one class index or one for each of 4 images"),
        (torch.zeros(4), "one class index or one for each of 4 images"),
    ],
)
def test_wrong_classes_are_refused(method: object, classes: object, message: str) -> None:
    assert callable(method)
    with pytest.raises(ValueError, match=message):
        method(make_network(), make_images(), classes)


def test_a_layer_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="must run exactly once in the network, not 0 times"):
        grad_cam(make_network(), make_images(1), 0, nn.Conv2d(3, 3, 1))
    network = make_network()
    with pytest.raises(ValueError, match="Linear returns no feature map"):
        grad_cam(network, make_images(1), 0, network.classifier)
    assert not network.classifier._forward_hooks


def test_it_needs_no_other_library() -> None:
    script = "import sys, effnet_cluster.effnet.cam\nprint(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert set(result.stdout.split()).isdisjoint({"matplotlib", "PIL", "cv2", "pytorch_grad_cam", "onnx"})
