"""`effnet-cluster predict`: what a trained model says of images, and where it looks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ...datasets import DataError
from ...orchestration.errors import UserError
from ..home import Home
from ..model_address import load_trained
from .console import print_data, print_json, stderr_console

if TYPE_CHECKING:
    from PIL import Image

    from ...orchestration.tracking.trained import TrainedModel

_BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    `ranked` are (class, probability), best first. `cam_class` is the class that a map was asked for, and `cam` the
    picture that was written; it is None where the map points nowhere.
    """

    image: Path
    ranked: list[tuple[str, float]]
    cam: Path | None = None
    cam_class: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        ranked = [{"class": name, "probability": probability} for name, probability in self.ranked]
        cam = {"cam": self.cam and str(self.cam), "cam_class": self.cam_class} if self.cam_class is not None else {}
        return {"image": str(self.image), "predictions": ranked, **cam}


@click.command("predict")
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    help="An experiment, for its best model; models:/NAME@champion; runs:/ID; or a checkpoint's path.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes per image.")
@click.option("--cam", is_flag=True, help="Write each image with its class activation map over it.")
@click.option("--class", "class_name", help="The class that the map explains.  [default: the predicted one]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for --cam.  [default: .]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option("--tracking-uri", help="An existing MLflow server, such as http://mlflow:5000.")
def command(
    images: tuple[Path, ...],
    model: str,
    top: int,
    cam: bool,
    class_name: str | None,
    out: Path | None,
    as_json: bool,
    tracking_uri: str | None,
) -> None:
    """Classify each IMAGE (JPEG, PNG or WebP) with a trained model."""
    if not cam and (out or class_name):
        raise UserError(f"{'--out' if out else '--class'} is for the pictures that --cam writes")
    for path in images:
        if not path.is_file():
            raise UserError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
    trained = load_trained(Home.default(), model, tracking_uri)
    explain = None if class_name is None else trained.facts.class_index(class_name)
    pictures = _picture_paths(images, out or Path()) if cam else None
    found = [
        prediction
        for start in range(0, len(images), _BATCH)
        for prediction in _predict(
            trained,
            images[start : start + _BATCH],
            top,
            explain,
            pictures and pictures[start : start + _BATCH],
        )
    ]
    if as_json:
        print_json([prediction.to_dict() for prediction in found], indent=1)
        return
    table = Table("image", "class", "probability")
    table.columns[-1].justify = "right"
    for prediction in found:
        for rank, (name, probability) in enumerate(prediction.ranked):
            table.add_row("" if rank else str(prediction.image), name, f"{probability:.4f}")
    print_data(table)
    for prediction in found:
        if prediction.cam_class is not None:
            line = (
                f"{prediction.cam}  where {prediction.image} shows {prediction.cam_class}"
                if prediction.cam
                else f"no picture of {prediction.image}: its map for {prediction.cam_class} is the same everywhere"
            )
            stderr_console().print(line, soft_wrap=True)


def _read(path: Path) -> Image.Image:
    """Decode an image; its failure in one line that names it."""
    from ...datasets import decode_rgb

    try:
        return decode_rgb(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except DataError as error:
        raise UserError(f"{path}: {error}") from None


def _predict(
    trained: TrainedModel,
    paths: Sequence[Path],
    top: int,
    explain: int | None,
    pictures: Sequence[Path] | None,
) -> Iterator[Prediction]:
    """Classify one batch and write its pictures.

    The images go through the transform that validation uses, and not the one within the served model, which takes only
    images of one size at a time.
    """
    import torch

    from ...datasets import EvalTransform
    from ...effnet.cam import deepest_layer, grad_cam
    from ...orchestration.report.overlay import overlay, seen_square
    from ...orchestration.training.classifier import NormalizedModel

    facts = trained.facts
    photos = [_read(path) for path in paths]
    transform = EvalTransform(facts.image_size, facts.eval_resize)
    normalise = NormalizedModel(torch.nn.Identity(), facts.normalization)
    inputs = normalise(torch.stack([transform(photo) for photo in photos]))
    maps = None
    if pictures:
        maps = grad_cam(trained.network, inputs, explain, deepest_layer(trained.network, facts.image_size))
        logits = maps.logits
    else:
        with torch.inference_mode():
            logits = trained.network(inputs)
    best = logits.softmax(1).topk(min(top, len(facts.classes)))
    for index, path in enumerate(paths):
        names = [facts.classes[number] for number in best.indices[index].tolist()]
        ranked = list(zip(names, best.values[index].tolist(), strict=True))
        if maps is None or not pictures:
            yield Prediction(path, ranked)
            continue
        picture = pictures[index] if maps.has_contrast[index] else None
        if picture is not None:
            seen = seen_square(photos[index], facts.image_size, facts.eval_resize)
            _write(overlay(seen, maps.image_maps[index].numpy()), picture)
        yield Prediction(path, ranked, picture, facts.classes[int(maps.classes[index])])


def _picture_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """A new name for each image's picture: `NAME-cam.png`, numbered where that is another's or an input."""
    taken = {path.absolute() for path in images}
    paths = []
    for image in images:
        names = (f"{image.stem}-cam{f'-{number}' if number else ''}.png" for number in itertools.count())
        path = next(folder / name for name in names if (folder / name).absolute() not in taken)
        taken.add(path.absolute())
        paths.append(path)
    return paths


def _write(picture: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
