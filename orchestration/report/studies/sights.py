"""Where models look on the same photographs, side by side: the paper's comparison of class activation maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..parts import Gallery, Part, Picture, Section


@dataclass(frozen=True)
class View:
    """What a model sees on one image.

    Attributes:
        picture: the image at the model's own size, with the map of the class that the model sees over it, or bare where
            the map points nowhere.
        target, predicted: names of classes.
        probability: of the predicted one.
    """

    picture: Picture
    target: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Sight:
    """What one model sees.

    Attributes:
        model: for people, such as `width × 2`.
        trial: whose model it is.
        views: of the same images in the same order as those of the other models.
    """

    model: str
    trial: str
    views: Sequence[View]


def sights_section(found: Sequence[tuple[str, Sequence[Sight] | str]]) -> Section:
    """A gallery per image, in which the models stand side by side.

    Args:
        found: names of experiments, each with its models or with why they cannot be shown.
    """
    parts: list[Part] = []
    for name, sights in found:
        title = f" ({name})" if len(found) > 1 else ""
        if isinstance(sights, str):
            parts.append(f"{sights}{title}.")
            continue
        parts.append(
            f"Each model is the best of its variant's trials{title}: "
            + ", ".join(f"{sight.model} ({sight.trial})" for sight in sights)
            + ". A map shows what speaks for the class that the model names; it is no test of anything."
        )
        for number in range(min((len(sight.views) for sight in sights), default=0)):
            target = sights[0].views[number].target
            pictures = [_captioned(sight, sight.views[number]) for sight in sights]
            parts.append(Gallery(f"Image {number + 1}: {target}{title}", pictures))
    return Section("sights", "The same images through each model", parts)


def _captioned(sight: Sight, view: View) -> Picture:
    wrong = "" if view.predicted == view.target else ", wrong"
    return replace(view.picture, caption=f"{sight.model}: {view.predicted} {view.probability:.0%}{wrong}")
