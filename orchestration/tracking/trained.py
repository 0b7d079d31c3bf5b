"""Trained models: networks built again from what MLflow or a checkpoint holds, and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets import one_line
from ..errors import UserError
from ..training.model_facts import ModelFacts

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...effnet.export import Format
    from ...effnet.networks import Network
    from ..training.checkpoint_store import CheckpointStore
    from ..training.classifier import ServedClassifier

# Where the bare network's weights are within `ServedClassifier`, which is what MLflow holds.
_SERVED_PREFIX = "model.network."
# Between the files and the model, in probability. Its resize ends in whole levels, and where a pixel comes out between
# two, another engine's float32 may fall on the other side.
_SERVED_TOLERANCE = 5e-3


@dataclass(frozen=True)
class TrainedModel:
    """A network in eval mode on the CPU with its facts; `source` is the address that it was read from."""

    source: str
    network: Network
    facts: ModelFacts

    def served(self) -> ServedClassifier:
        """The model as MLflow serves it: uint8 images (N, H, W, 3) → probabilities."""
        from ..training.classifier import ServedClassifier

        facts = self.facts
        return ServedClassifier(self.network, facts.image_size, facts.eval_resize, *facts.inputs).eval()


def from_mlflow(tracking_uri: str, model_uri: str) -> TrainedModel:
    """Build a logged model's network again.

    What MLflow holds is an exported program, a frozen graph; its weights are the network's own under other names.

    Raises:
        UserError: there is no such model, or it was not logged by effnet-cluster.
        EngineError: the server cannot be reached.
    """
    from .models import download_weights

    weights, facts = download_weights(tracking_uri, model_uri)
    bare = {
        name.removeprefix(_SERVED_PREFIX): value for name, value in weights.items() if name.startswith(_SERVED_PREFIX)
    }
    return _build(model_uri, bare, facts)


def from_checkpoint(path: Path) -> TrainedModel:
    """Build the network of a checkpoint that the trainer wrote.

    Args:
        path: the checkpoint's folder, or its file.

    Raises:
        UserError: it is no such checkpoint.
    """
    from ..training.checkpoint import read_weights

    return _build(str(path), *read_weights(path))


def best_of(store: CheckpointStore) -> tuple[TrainedModel, float]:
    """The model of a training's best epoch, and its validation top-1, a fraction.

    Raises:
        UserError: a checkpoint is damaged.
        OSError: a checkpoint cannot be read.
    """
    import torch

    from ..training.checkpoint import TrainingProgress, decode, evaluated_weights

    def read(name: str) -> dict[str, Any]:
        return decode(store.read(name), store.where(name), torch.device("cpu"))

    last = store.names()[-1]
    state = read(last)
    progress = TrainingProgress(**state["progress"])
    best = progress.best_name or last
    if best != last:
        state = read(best)
    return _build(store.where(best), evaluated_weights(state), state["facts"]), progress.best_top1


def _build(source: str, weights: Mapping[str, Tensor], fields: Mapping[str, Any]) -> TrainedModel:
    from ...effnet import load_weights, make_network

    if not fields:
        raise UserError(
            f"{source} does not say which network its weights belong to; it was not written by this version"
        )
    try:
        facts = ModelFacts.from_dict(fields)
        network = make_network(facts.config)
        load_weights(network, weights, "effnet")
    except (ValueError, RuntimeError) as error:
        reason = one_line(error, 400)
        raise UserError(f"{source} holds no network that this version can build: {reason}") from None
    return TrainedModel(source, network.eval(), facts)


def export_trained(trained: TrainedModel, path: Path, form: Format, *, logits: bool = False) -> float:
    """Write a deployable file, checked on random images of several sizes; see `effnet.export.export_model`.

    Args:
        trained: the model.
        path: the file to write or replace.
        form: `onnx` or `pt2`.
        logits: the bare network, float32 (N, 3, image_size, image_size) → logits, instead of the served model, uint8
            (N, height, width, 3) → probabilities.

    Returns:
        The greatest difference between the file's outputs and the model's.

    Raises:
        ImportError: the packages of the extra `export` are missing.
        ExportError: the exporter refuses the model, or the file computes something else.
        OSError: the file cannot be written.
    """
    import torch

    from ...effnet.export import Interface, export_model
    from ..training.classifier import NormalizedModel

    facts, side = trained.facts, trained.facts.image_size
    notes = {"classes": list(facts.classes), "image_size": side, "model": trained.source}
    random = torch.Generator().manual_seed(0)
    if logits:
        normalise = NormalizedModel(torch.nn.Identity(), facts.normalization)
        batches = (_smooth_images(count, side, side, random) for count in (2, 1, 5))
        inputs = [normalise(batch.permute(0, 3, 1, 2)) for batch in batches]
        return export_model(trained.network, path, form, inputs, Interface(notes=notes))
    # Larger and smaller than the crop, high and wide: every way through the transform.
    shapes = ((2, side + 9, side + 4), (1, max(1, side - 3), 2 * side), (5, side, side), (2, 3 * side, 2 * side))
    images = [_smooth_images(*shape, random) for shape in shapes]
    dynamic = {0: "batch", 1: "height", 2: "width"}
    interface = Interface(output="probabilities", dynamic=dynamic, notes=notes)
    return export_model(trained.served(), path, form, images, interface, _SERVED_TOLERANCE)


def _smooth_images(count: int, height: int, width: int, random: torch.Generator) -> Tensor:
    """Random uint8 images (count, height, width, 3) with some of a photograph's smoothness."""
    import torch
    from torch.nn import functional as F

    coarse = torch.rand(count, 3, 6, 6, generator=random) * 255
    return F.interpolate(coarse, (height, width), mode="bilinear").round().byte().permute(0, 2, 3, 1).contiguous()
