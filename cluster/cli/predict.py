"""`effnet-cluster predict`: what a trained model says of images, and where it looks."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ...datasets import DataError
from ...orchestration.errors import UserError
from ..home import Home
from ..image_paths import find_images, reason
from ..model_address import load_trained
from .console import print_data, print_json, print_line, stderr_console

if TYPE_CHECKING:
    from PIL import Image

    from ...orchestration.report.sheet import Seen
    from ...orchestration.tracking.trained import TrainedModel

_BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    `ranked` are (class, probability), best first. `cam_class` is the class that a map was asked for, and `cam` the
    picture that was written; it is None where the map points nowhere. `seen` is the image on a sheet, if one is wanted.
    `error` says why there is nothing of all that.
    """

    image: Path
    ranked: list[tuple[str, float]] = field(default_factory=list)
    cam: Path | None = None
    cam_class: str | None = None
    seen: Seen | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        if self.error is not None:
            return {"image": str(self.image), "error": self.error}
        ranked = [{"class": name, "probability": probability} for name, probability in self.ranked]
        cam = {"cam": self.cam and str(self.cam), "cam_class": self.cam_class} if self.cam_class is not None else {}
        return {"image": str(self.image), "predictions": ranked, **cam}


@click.command("predict")
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    required=True,
    help="An experiment, for its best model; EXPERIMENT/TRIAL; models:/NAME@champion; runs:/ID; a checkpoint's path.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes per image.")
@click.option("--cam", is_flag=True, help="Write each image with its class activation map over it.")
@click.option("--class", "class_name", help="The class that the map explains.  [default: the predicted one]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for --cam.  [default: .]")
@click.option(
    "--picture", type=click.Path(path_type=Path), help="File for a sheet: the images with their classes as bars."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option("--tracking-uri", help="An existing MLflow server, such as http://mlflow:5000.")
def command(
    images: tuple[Path, ...],
    model: str,
    top: int,
    cam: bool,
    class_name: str | None,
    out: Path | None,
    picture: Path | None,
    as_json: bool,
    tracking_uri: str | None,
) -> None:
    """Classify each IMAGE with a trained model.

    An IMAGE is a file, a folder with images in it or below, or a pattern in quotes such as 'photos/*.jpg'.

    Exit code 1 if a file is no image or damaged; the others are classified all the same.
    """
    if not cam and (out or class_name):
        raise UserError(f"{'--out' if out else '--class'} is for the pictures that --cam writes")
    found = find_images(images)
    predictions = [Prediction(path, error=problem) for path, problem in found.found]
    if picture:
        _require_sheet(picture, found.files)
    if files := found.files:
        trained = load_trained(Home.default(), model, tracking_uri)
        explain = None if class_name is None else trained.facts.class_index(class_name)
        pictures = _picture_paths(files, out or Path(), picture) if cam else None
        cuts = (slice(start, start + _BATCH) for start in range(0, len(files), _BATCH))
        made = itertools.chain.from_iterable(
            _predict(trained, files[part], top, explain, pictures and pictures[part], picture is not None)
            for part in cuts
        )
        predictions = [prediction if prediction.error else next(made) for prediction in predictions]
    if as_json:
        print_json([prediction.to_dict() for prediction in predictions], indent=1)
    else:
        _show(predictions)
    if picture and (shown := [prediction.seen for prediction in predictions if prediction.seen]):
        from ...orchestration.report.sheet import write_sheet

        write_sheet(shown, picture)
        print_line(f"{picture}  shows {len(shown):,} images", err=True)
    if found.ignored:
        by_kind = ", ".join(f"{count:,} {kind}" for kind, count in found.ignored.items())
        print_line(f"{found.ignored.total():,} files ignored: {by_kind}", err=True)
    for prediction in predictions:
        if prediction.error is not None:
            print_line(f"error: {prediction.image}: {prediction.error}", err=True)
    if any(prediction.error for prediction in predictions):
        sys.exit(1)


def _show(predictions: Sequence[Prediction]) -> None:
    """Print the predictions as a table, and where their pictures are."""
    if not any(prediction.ranked for prediction in predictions):
        return
    table = Table("image", "class", "probability")
    table.columns[-1].justify = "right"
    for prediction in predictions:
        for rank, (name, probability) in enumerate(prediction.ranked):
            table.add_row("" if rank else str(prediction.image), name, f"{probability:.4f}")
    print_data(table)
    for prediction in predictions:
        if prediction.cam_class is not None:
            line = (
                f"{prediction.cam}  where {prediction.image} shows {prediction.cam_class}"
                if prediction.cam
                else f"no picture of {prediction.image}: its map for {prediction.cam_class} is the same everywhere"
            )
            stderr_console().print(line, soft_wrap=True)


def _predict(
    trained: TrainedModel,
    files: Sequence[Path],
    top: int,
    explain: int | None,
    pictures: Sequence[Path] | None,
    on_sheet: bool,
) -> Iterator[Prediction]:
    """Classify one batch and write its pictures; a file that is no image, or damaged, is an error of its own.

    The images go through the transform that validation uses, and not the one within the served model, which takes only
    images of one size at a time.
    """
    import torch

    from ...datasets import EvalTransform, read_rgb
    from ...effnet.cam import deepest_layer, grad_cam
    from ...orchestration.report.overlay import overlay, seen_square
    from ...orchestration.training.classifier import NormalizedModel

    if on_sheet:
        from ...orchestration.report.sheet import Seen, shrunk

    facts = trained.facts
    transform = EvalTransform(facts.image_size, facts.eval_resize, facts.interpolation)
    done: dict[int, Prediction] = {}
    seen: dict[int, Image.Image] = {}
    pixels: dict[int, torch.Tensor] = {}
    for index, path in enumerate(files):
        try:
            photo = read_rgb(path)
        except DataError as error:
            done[index] = Prediction(path, error=reason(error, path))
            continue
        pixels[index] = transform(photo)
        if pictures or on_sheet:
            seen[index] = seen_square(photo, facts.image_size, facts.eval_resize)
    if pixels:
        inputs = NormalizedModel(torch.nn.Identity(), facts.normalization)(torch.stack([*pixels.values()]))
        maps = None
        if pictures:
            maps = grad_cam(trained.network, inputs, explain, deepest_layer(trained.network, facts.image_size))
            logits = maps.logits
        else:
            with torch.inference_mode():
                logits = trained.network(inputs)
        best = logits.softmax(1).topk(min(top, len(facts.classes)))
    for row, index in enumerate(pixels):
        names = [facts.classes[number] for number in best.indices[row].tolist()]
        ranked = list(zip(names, best.values[row].tolist(), strict=True))
        shown = Seen(files[index].name, shrunk(seen[index]), ranked) if on_sheet else None
        if maps is None or not pictures:
            done[index] = Prediction(files[index], ranked, seen=shown)
            continue
        explained = facts.classes[int(maps.classes[row])]
        picture = pictures[index] if maps.has_contrast[row] else None
        laid = overlay(seen[index], maps.image_maps[row].numpy()) if picture else None
        if laid and picture:
            _write(laid, picture)
        if shown:
            shown = replace(shown, overlay=laid and shrunk(laid), explains=explained)
        done[index] = Prediction(files[index], ranked, picture, explained, shown)
    yield from (done[index] for index in range(len(files)))


def _require_sheet(picture: Path, files: Sequence[Path]) -> None:
    """Refuse a sheet that cannot be written, before anything is classified."""
    from ...orchestration.report.sheet import MOST, require_format

    require_format(picture)
    if picture.absolute() in {path.absolute() for path in files}:
        raise UserError(f"--picture {picture}: that is one of the images, and would be replaced; name another file")
    if len(files) > MOST:
        raise UserError(f"--picture: {len(files):,} images, and a sheet takes {MOST}; name fewer")


def _picture_paths(images: Sequence[Path], folder: Path, sheet: Path | None) -> list[Path]:
    """A new name for each image's picture: `NAME-cam.png`, numbered where that name is taken, as the sheet has it."""
    taken = {path.absolute() for path in (*images, *([sheet] if sheet else []))}
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
