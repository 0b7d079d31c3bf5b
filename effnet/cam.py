"""Class activation maps: where in an image the evidence for a class lies.

Two methods, which agree on this architecture up to a positive factor and the sign rule, because its last feature map
meets only global average pooling and a linear layer (Selvaraju et al. 2017, section 3.1):

* ``class_activation_map``: Zhou et al. 2016 (arXiv:1512.04150), the classifier's weights applied at every position.
* ``grad_cam``: Selvaraju et al. 2017 (arXiv:1610.02391), for any layer, with the gradients' means as weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .baselines.config import BaselineConfig
from .baselines.network import Baseline
from .complexity import complexity
from .model import EfficientNet

# Least difference within a map, relative to its greatest value, that is evidence and not rounding (float32 has 6e-8).
_LEAST_CONTRAST = 1e-4
Classes = int | Sequence[int] | Tensor
"""One class index for the whole batch, or one for each image."""


@dataclass(frozen=True)
class ActivationMaps:
    """Maps of a batch of N images of H by W pixels, one per image; no gradient flows through them.

    Attributes:
        logits: (N, classes), what the network says.
        classes: (N,) int64, the class that each map explains.
        raw: (N, h, w) at the resolution of the layer, as the method's paper defines them. Grad-CAM's are >= 0. The
            plain map is signed, and its mean over the positions plus the classifier's bias is the class's logit.
        image_size: (H, W).
    """

    logits: Tensor
    classes: Tensor
    raw: Tensor
    image_size: tuple[int, int]

    @property
    def has_contrast(self) -> Tensor:
        """(N,) bool, whether a map points anywhere: not where its values are equal up to rounding."""
        low, high = self.raw.amin((1, 2)), self.raw.amax((1, 2))
        return high - low > _LEAST_CONTRAST * torch.maximum(low.abs(), high.abs())

    @property
    def maps(self) -> Tensor:
        """(N, h, w) in [0, 1], see ``normalize``; 0 everywhere where there is no contrast."""
        return normalize(self.raw) * self.has_contrast[:, None, None]

    @property
    def image_maps(self) -> Tensor:
        """(N, H, W) in [0, 1]: ``raw`` resized bilinearly (pixel centres aligned, edges continued), then ``normalize``.

        0 everywhere where the raw map has no contrast: interpolating equal values leaves differences of rounding.
        """
        resized = F.interpolate(self.raw[:, None], self.image_size, mode="bilinear", align_corners=False)
        return normalize(resized[:, 0]) * self.has_contrast[:, None, None]


def normalize(maps: Tensor) -> Tensor:
    """Map the values of each map (N, h, w) linearly to [0, 1], its least to 0 and its greatest to 1.

    Maps of different images are then no longer comparable with each other. A constant map, which points nowhere,
    becomes 0 everywhere.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / span.where(span > 0, 1), 0.0)


def deepest_layer(network: EfficientNet | Baseline, image_size: int | tuple[int, int], positions: int = 7) -> nn.Module:
    """Find the layer to explain images of a size at: the deepest whose map has enough positions to show a place.

    At 224 pixels that is the head, with 7 x 7. At 32 pixels the head has one position. Of a baseline it is one of its
    blocks.

    Args:
        network: one of this package.
        image_size: edge, or (height, width), in pixels.
        positions: the least height and width of the layer's map.

    Returns:
        The stem, a stage or the head; the stem where none has so many positions.

    Raises:
        ValueError: the image size is not positive, or too small for a baseline.
    """
    if isinstance(network, Baseline):
        return _deepest_block(network, image_size, positions)
    rows = complexity(network.config, image_size).stages
    layers = [network.stem, *network.stages, network.head]
    # A row's resolution is that of its input, so of the layer before it; the head keeps its own.
    sizes = [row.resolution for row in (*rows[1:], rows[-1])]
    fine = [layer for layer, size in zip(layers, sizes, strict=True) if min(size) >= positions]
    return fine[-1] if fine else network.stem


def _last_block(network: Baseline, image_size: tuple[int, int]) -> nn.Module:
    """The one that makes the last feature map."""
    return _deepest_block(network, image_size, network.config.feature_edge(min(image_size)))


def _deepest_block(network: Baseline, image_size: int | tuple[int, int], positions: int) -> nn.Module:
    shape = (image_size, image_size) if isinstance(image_size, int) else image_size
    return network.blocks()[_deepest_place(network.config, shape, positions)]


@lru_cache(maxsize=64)
def _deepest_place(config: BaselineConfig, shape: tuple[int, int], positions: int) -> int:
    """Of the blocks that make a map, found by running a network without storage: once, not for every batch.

    Adaptive pooling is none: it makes one position, or repeats those of a smaller map.
    """
    complexity(config, shape)  # refuses a size that the network cannot take
    bare = Baseline(config, meta=True).eval()
    made: list[tuple[int, tuple[int, int]]] = []

    def remember(number: int, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            made.append((number, _size(output)))

    for number, block in enumerate(bare.blocks()):
        if not isinstance(block, nn.AdaptiveAvgPool2d):
            block.register_forward_hook(lambda module, inputs, output, number=number: remember(number, output))
    with torch.no_grad():
        bare(torch.empty(1, 3, *shape, device="meta"))
    fine = [number for number, size in made if min(size) >= positions]
    return fine[-1] if fine else made[0][0]


def class_activation_map(network: EfficientNet, images: Tensor, classes: Classes | None = None) -> ActivationMaps:
    """Weigh the last feature map by the classifier's weights of a class (Zhou et al. 2016, equation 2).

    Args:
        network: run in eval mode, whatever mode it is in, and left as it was.
        images: (N, 3, H, W), normalised floats.
        classes: what to explain; by default each image's most probable class.

    Raises:
        ValueError: a class is not one of the network's, or their number is not the number of images.
    """
    with _evaluating(network), torch.no_grad():
        features = network.features(images)
        logits: Tensor = network.classifier(features.mean((2, 3)))
        chosen = _chosen(classes, logits)
        raw = torch.einsum("nchw,nc->nhw", features, network.classifier.weight[chosen])
    return ActivationMaps(logits, chosen, raw, _size(images))


def grad_cam(
    network: EfficientNet | Baseline, images: Tensor, classes: Classes | None = None, layer: nn.Module | None = None
) -> ActivationMaps:
    """Weigh a layer's maps by the mean gradient of a class's logit and keep what speaks for it (equations 1 and 2).

    Parameters' ``.grad`` are neither read nor written.

    Args:
        network: run in eval mode, whatever mode it is in, and left as it was.
        images: (N, 3, H, W), normalised floats.
        classes: what to explain; by default each image's most probable class.
        layer: a module of the network that returns (N, C, h, w), such as ``network.stages[4]`` for finer maps; by
            default ``network.head``, the last feature map, of a baseline the last block's. See ``deepest_layer`` for
            small images.

    Raises:
        ValueError: a class is not one of the network's, their number is not the number of images, or the layer is not
            part of the network or returns no feature map.
    """
    if layer is None:
        layer = network.head if isinstance(network, EfficientNet) else _last_block(network, _size(images))
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if not (isinstance(output, Tensor) and output.ndim == 4):
            raise ValueError(f"{type(module).__name__} returns no feature map (N, C, h, w)")
        # Cut off here: nothing before the layer needs a gradient. What goes on is a copy, because an activation that
        # works in place would overwrite the layer's own output.
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    with _evaluating(network), torch.enable_grad(), layer.register_forward_hook(keep):
        logits: Tensor = network(images)
        if len(kept) != 1:
            name = type(layer).__name__
            raise ValueError(f"the layer {name} must run exactly once in the network, not {len(kept)} times")
        chosen = _chosen(classes, logits)
        # In eval mode images do not influence each other, so the sum's gradient holds each image's own.
        (gradients,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), kept[0])
    with torch.no_grad():
        raw = torch.einsum("nchw,nc->nhw", kept[0], gradients.mean((2, 3))).relu()
    return ActivationMaps(logits.detach(), chosen, raw, _size(images))


def _chosen(classes: Classes | None, logits: Tensor) -> Tensor:
    """The class of each image as (N,) int64 on the logits' device."""
    count, known = logits.shape
    if classes is None:
        return logits.argmax(1)
    given = torch.as_tensor(classes, device=logits.device)
    if given.is_floating_point() or given.dtype is torch.bool or given.shape not in {(), (count,)}:
        raise ValueError(f"classes must be one class index or one for each of {count} images, not {classes!r}")
    if count and not bool(((given >= 0) & (given < known)).all()):
        raise ValueError(f"class {given.tolist()} is outside 0 to {known - 1}")
    return given.long().expand(count)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode for a while. Modules are restored one by one: a frozen part may be in eval mode on its own."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
