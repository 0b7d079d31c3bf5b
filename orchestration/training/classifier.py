"""Modules around the network: uint8 images in, logits or probabilities out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .normalization import IMAGENET, Normalization

_HALF_UP = 0.5 + 2**-10


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
    caller cannot get it wrong: short side to `eval_resize` (bicubic), centre crop of `image_size`; images no larger
    than the crop are resized whole.
    """

    def __init__(
        self, network: nn.Module, image_size: int, eval_resize: int, normalization: Normalization = IMAGENET
    ) -> None:
        super().__init__()
        self.model = NormalizedModel(network, normalization)
        self.image_size = image_size
        self.eval_resize = eval_resize

    def forward(self, images: Tensor) -> Tensor:
        """Transform, classify and return probabilities."""
        x = images.permute(0, 3, 1, 2).float()
        height, width = x.shape[-2], x.shape[-1]
        short = torch.sym_min(height, width)
        # Written without a branch on the size, so that one exported program serves all sizes.
        side = torch.sym_ite(short > self.image_size, self.eval_resize, self.image_size)
        new_height, new_width = height * side // short, width * side // short
        # Pillow resizes along one axis after the other and ends each in uint8; done at once, sharp edges of small
        # images would differ by several levels.
        x = _resize(_resize(x, height, new_width), new_height, new_width)
        # Gathered rather than sliced: the strides of a slice become conditions of the exported program, which then
        # refuses images whose short side becomes `image_size`.
        span = torch.arange(self.image_size, device=x.device)
        x = x.index_select(2, span + _half(new_height - self.image_size))
        x = x.index_select(3, span + _half(new_width - self.image_size))
        return self.model(x).softmax(-1)  # type: ignore[no-any-return]


def _resize(x: Tensor, height: int | torch.SymInt, width: int | torch.SymInt) -> Tensor:
    """Bicubic resize to whole levels from 0 to 255."""
    size = [height, width]
    x = F.interpolate(x, size, mode="bicubic", antialias=True)  # type: ignore[arg-type]
    # Halves, which rational factors make often, go up as in Pillow, and by more than float32 can be off: another engine
    # that computes 0.49999 for them must not come out a level lower.
    return (x + _HALF_UP).floor().clamp(0, 255)


def _half(margin: int | torch.SymInt) -> int | torch.SymInt:
    """Half a margin, rounded half to even as torchvision's centre crop does; without floats, for symbolic sizes."""
    return (margin + (margin % 4) // 3) // 2
