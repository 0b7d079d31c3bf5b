"""What is served equals what was evaluated: the same pixels for images of all shapes, eager and exported."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from effnet_cluster.datasets import EvalTransform
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.training.classifier import NormalizedModel, ServedClassifier
from effnet_cluster.orchestration.training.normalization import IMAGENET

# (height, width): square, wide, tall, smaller and larger than the crop, equal to crop and resize, odd margins.
SIZES = [(32, 32), (16, 16), (20, 31), (31, 20), (37, 37), (33, 90), (200, 60), (61, 64), (33, 32), (8, 30), (300, 427)]
CROPS = [(32, 37), (32, 32), (24, 27)]


def photo(height: int, width: int, number: int = 0) -> np.ndarray:
    """A real photograph squeezed to the size, so that small ones have edges too."""
    whole = Image.fromarray(load_sample_images().images[number])
    return np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Random weights, but statistics of real photographs, so that it tells pictures apart and does not saturate."""
    torch.manual_seed(0)
    network = EfficientNet(variant("b0", width=0.25, depth=0.25, num_classes=5, bn_momentum=1.0)).train()
    images = np.stack([photo(32 + n, 32)[n:] for n in range(8)] + [photo(32, 32 + n, 1)[:, n:] for n in range(8)])
    with torch.inference_mode():
        NormalizedModel(network)(torch.from_numpy(images).permute(0, 3, 1, 2))
    nn.init.normal_(network.classifier.weight, std=0.01)
    return network.eval()


class _Pixels(nn.Module):
    """Shows what reaches the network: undoes the normalisation and makes it pass softmax unharmed."""

    seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.flatten(1)


def test_normalisation_is_that_of_imagenet() -> None:
    images = torch.arange(2 * 3 * 16 * 16).remainder(256).to(torch.uint8).view(2, 3, 16, 16)
    normalised = NormalizedModel(nn.Identity())(images)
    expected = (images.numpy() / 255 - np.reshape(IMAGENET.mean, (3, 1, 1))) / np.reshape(IMAGENET.std, (3, 1, 1))
    np.testing.assert_allclose(normalised.numpy(), expected, atol=1e-5)
    presets = pytest.importorskip("torchvision.transforms._presets")
    theirs = presets.ImageClassification(crop_size=16, resize_size=16)(images)
    torch.testing.assert_close(normalised, theirs, atol=1e-5, rtol=0)


def test_the_constants_are_not_part_of_the_state() -> None:
    network = nn.Linear(2, 2)
    assert NormalizedModel(network).state_dict().keys() == {"network.weight", "network.bias"}


@pytest.mark.parametrize(("crop", "resize"), CROPS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_served_pixels_are_within_a_level_of_the_evaluations(height: int, width: int, crop: int, resize: int) -> None:
    pixels = photo(height, width)
    probe = _Pixels()
    ServedClassifier(probe, crop, resize)(torch.from_numpy(pixels.copy())[None])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    served = (probe.seen[0] * std + mean) * 255
    evaluated = EvalTransform(crop, resize)(Image.fromarray(pixels)).float()
    assert served.shape == evaluated.shape
    difference = (served - evaluated).abs()
    assert difference.max() <= 2.001
    assert (difference > 1.001).float().mean() < 1e-3  # rare values: see `resize_as_pillow`
    assert difference.mean() < 0.25


def test_the_order_of_the_axes_and_channels_is_that_of_a_picture() -> None:
    """A picture that is red above and blue below: an exchanged axis or channel shows."""
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, :, 0] = 255
    picture[20:, :, 2] = 255
    probe = _Pixels()
    ServedClassifier(probe, 32, 36)(torch.from_numpy(picture)[None])
    assert probe.seen[0, 0, 0, 16] > 2 > 0 > probe.seen[0, 0, 31, 16]
    assert probe.seen[0, 2, 31, 16] > 2 > 0 > probe.seen[0, 2, 0, 16]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_served_probabilities_are_the_evaluations_softmax(height: int, width: int, network: nn.Module) -> None:
    pixels = np.stack([photo(height, width, number) for number in (0, 1)])
    transform = EvalTransform(32, 37)
    with torch.inference_mode():
        served = ServedClassifier(network, 32, 37).eval()(torch.from_numpy(pixels))
        images = torch.stack([transform(Image.fromarray(image)) for image in pixels])
        evaluated = NormalizedModel(network)(images).softmax(-1)
    assert served.dtype == torch.float32
    torch.testing.assert_close(served.sum(-1), torch.ones(2))
    torch.testing.assert_close(served, evaluated, atol=3e-3, rtol=0)
    assert (served[0] - served[1]).abs().max() > 0.01  # the pictures differ by more


def test_one_exported_program_serves_all_batches_and_sizes(network: nn.Module) -> None:
    served = ServedClassifier(network, 32, 37).eval()
    example = torch.zeros(2, 36, 32, 3, dtype=torch.uint8)
    sizes = dict.fromkeys(range(3), torch.export.Dim.AUTO)
    program = torch.export.export(served, (example,), dynamic_shapes=(sizes,)).module()
    for count, (height, width) in enumerate(SIZES, start=1):
        images = torch.from_numpy(np.stack([photo(height, width)] * count))
        with torch.inference_mode():
            torch.testing.assert_close(program(images), served(images), atol=1e-6, rtol=0)
