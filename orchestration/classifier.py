"""Modules around the network: uint8 images in, logits or probabilities out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The channel statistics of ImageNet that all reference weights were trained with (torchvision, timm, the paper's code).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class NormalizedModel(nn.Module):
    """A network behind its input normalisation: uint8 images (N, 3, H, W) → what the network returns.

    Normalising on the device keeps the loader at a quarter of the bytes and the host free.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        # Not persistent: constants need no place in a state dict.
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise `images` and run the network."""
        x = (images.float() - self.mean) / self.std
        return self.network(x)  # type: ignore[no-any-return]


class ServedClassifier(nn.Module):
    """What MLflow serves: images of any one size as people have them → class probabilities.

    Input uint8 (N, H, W, 3); output float32 (N, classes). The evaluation transform is part of the model, so that a
    caller cannot get it wrong: short side to `eval_resize` (bicubic), centre crop of `image_size`; images no larger
    than the crop are resized whole.
    """

    def __init__(self, network: nn.Module, image_size: int, eval_resize: int) -> None:
        super().__init__()
        self.model = NormalizedModel(network)
        self.image_size = image_size
        self.eval_resize = eval_resize

    def forward(self, images: Tensor) -> Tensor:
        """Transform, classify and return probabilities."""
        x = images.permute(0, 3, 1, 2).float()
        height, width = x.shape[-2], x.shape[-1]
        short = torch.sym_min(height, width)
        # Written without a branch on the size, so that one exported program serves all sizes.
        resized = torch.sym_ite(short > self.image_size, self.eval_resize, self.image_size)
        size = [height * resized // short, width * resized // short]
        x = F.interpolate(x, size, mode="bicubic", antialias=True)  # type: ignore[arg-type]  # symbolic ints
        x = x.round().clamp(0, 255)  # Pillow's resize ends in uint8 too
        top, left = _half(x.shape[-2] - self.image_size), _half(x.shape[-1] - self.image_size)
        # By index and not by slice: a slice's memory layout depends on the image's size, and torch.export would take
        # the layout that it saw for the only one and refuse images of other sizes.
        side = torch.arange(self.image_size, device=x.device)
        x = x.index_select(2, top + side).index_select(3, left + side)
        return self.model(x).softmax(-1)  # type: ignore[no-any-return]


def _half(margin: int) -> int:
    """Half a margin, rounded half to even as torchvision's centre crop does; without floats, for symbolic sizes."""
    return (margin + (margin % 4) // 3) // 2
