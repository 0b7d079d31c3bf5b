"""The network of a trial, the size of its images, and what both cost."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ...effnet import VARIANTS, complexity, network_config
from ...effnet.costs import Complexity
from ...effnet.networks import NetworkConfig
from ..errors import UserError

BASE_RESOLUTION = VARIANTS["b0"].resolution


@lru_cache(maxsize=4096)
def planned_network(
    network: tuple[str, str, str],
    overrides: tuple[tuple[str, Any], ...],
    classes: int,
    wanted_size: int | None,
    native_size: int,
    upsample: float,
) -> tuple[NetworkConfig, int, Complexity]:
    """A network, the edge of its input in pixels, and its cost: the same ones for many trials of a sweep.

    Args:
        network: variant, activation and shortcut.
        overrides: fields of its config and their values.
        classes: outputs of the classifier.
        wanted_size: the edge that was asked for; None: as `scaled_resolution` says.
        native_size, upsample: see `scaled_resolution`.

    Raises:
        UserError: a baseline has not what is asked for, or takes no images so small.
    """
    name, activation, shortcut = network
    try:
        model = network_config(name, activation=activation, shortcut=shortcut, num_classes=classes, **dict(overrides))
    except ValueError as error:  # what a baseline has not
        raise UserError(str(error)) from None
    image_size = wanted_size or scaled_resolution(model.resolution, native_size, upsample)
    if image_size < model.smallest_image:
        raise UserError(
            f"{name} takes images of at least {model.smallest_image} px, not {image_size}; "
            f"give --image-size {model.smallest_image} or more, or leave {name} out"
        )
    return model, image_size, complexity(model, image_size)


def scaled_resolution(resolution: int, native: int, upsample: float = 1.0) -> int:
    """Input size in pixels for a variant on images whose short side is `native` pixels.

    Data at least as large as B0's input keep the variant's own resolution. Smaller images are not blown up to it:
    B0 reads them as they are, and the others grow by the same compound factor (paper, section 3.3), rounded to
    multiples of 8 so that the strides divide. `upsample` enlarges them further, at most to the variant's own
    resolution: the last of the network's five strides of 2 leaves little of them otherwise.
    """
    if native >= BASE_RESOLUTION:
        return resolution
    return min(resolution, max(32, round(native * upsample * resolution / BASE_RESOLUTION / 8) * 8))
