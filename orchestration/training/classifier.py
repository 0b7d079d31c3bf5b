"""Modules around the network: uint8 images in, logits or probabilities out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...datasets.decoding.resizing import Interpolation, evaluation_crop, resize_as_pillow
from .normalization import IMAGENET, Normalization


class NormalizedModel(nn.Module):
    """A network behind its input normalisation: uint8 images (N, 3, H, W) → what the network returns.

    Normalising on the device keeps the loader at a quarter of the bytes and the host free.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization = IMAGENET) -> None:
        super().__init__()
        self.network = network
        # Not persistent: constants need no place in a state dict.
        self.register_buffer("mean", torch.tensor(normalization.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise `images` and run the network."""
        x = (images.float() - self.mean) / self.std
        return self.network(x)  # type: ignore[no-any-return]


class ServedClassifier(nn.Module):
    """What MLflow serves: images of any one size as people have them → class probabilities.

    Input uint8 (N, H, W, 3); output float32 (N, classes). The evaluation transform is part of the model, so that a
    caller cannot get it wrong: short side to `eval_resize`, centre crop of `image_size`; images no larger
    than the crop are resized whole.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        eval_resize: int,
        normalization: Normalization = IMAGENET,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        super().__init__()
        self.model = NormalizedModel(network, normalization)
        self.image_size = image_size
        self.eval_resize = eval_resize
        self.interpolation: Interpolation = interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Transform, classify and return probabilities."""
        x = images.permute(0, 3, 1, 2).float()
        crop = evaluation_crop(x.shape[-2], x.shape[-1], self.image_size, self.eval_resize)
        x = resize_as_pillow(x, crop.height, crop.width, self.interpolation)
        # Gathered rather than sliced: the strides of a slice become conditions of the exported program, which then
        # refuses images whose short side becomes `image_size`.
        span = torch.arange(self.image_size, device=x.device)
        x = x.index_select(2, span + crop.top).index_select(3, span + crop.left)
        return self.model(x).softmax(-1)  # type: ignore[no-any-return]
