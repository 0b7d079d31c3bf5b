"""Published weights bring the interpolation of their evaluation: what a trial validates, serves and exports has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from effnet_cluster.datasets import EvalTransform, Manifest, TrainLoader
from effnet_cluster.effnet import variant
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.trained import TrainedModel, best_of, export_trained
from effnet_cluster.orchestration.training.checkpoint_store import CheckpointStore
from effnet_cluster.orchestration.training.classifier import NormalizedModel, ServedClassifier
from effnet_cluster.orchestration.training.errors import PreemptedError
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.model_facts import ModelFacts
from effnet_cluster.orchestration.training.networks import build_network
from effnet_cluster.orchestration.training.normalization import Inputs

from .trainings import few_digits, make_job, stop_at, train

models = pytest.importorskip("torchvision.models")
pytestmark = pytest.mark.usefixtures("one_thread")
CHINA = load_sample_image("china.jpg").copy()
# A level of 255 after the division by ImageNet's smallest deviation.
LEVEL = 1 / 255 / 0.224


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_digits(tmp_path_factory.mktemp("few"))


def fill(folder: Path, name: str) -> Any:
    """Torchvision's enumeration member, and random weights where its file would be."""
    weights = models.get_model_weights(name).IMAGENET1K_V1
    torch.save(models.get_model(name, weights=None).state_dict(), folder / weights.url.rpartition("/")[2])
    return weights


class _Seen(nn.Module):
    """Returns what reaches the network, through a softmax that changes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.pixels = x
        return x.flatten(1)


@pytest.mark.parametrize(
    ("name", "theirs", "interpolation"),
    [("b0", "efficientnet_b0", "bicubic"), ("resnet18", "resnet18", "bilinear")],
)
def test_a_photograph_becomes_what_torchvisions_transforms_make_of_it(
    name: str, theirs: str, interpolation: str, few: Manifest, hub_cache: Path
) -> None:
    preset = fill(hub_cache, theirs).transforms()
    fields = {"name": "x", "variants": name, "image_size": 224, "recipe": {"pretrained": True}}
    (trial,) = make_plan(ExperimentSpec.parse(fields), few).trials
    inputs = build_network(trial)[1]
    assert inputs.interpolation == preset.interpolation.value == interpolation
    photo = Image.fromarray(CHINA)
    expected = preset(photo)
    pixels = EvalTransform(trial.image_size, trial.eval_resize, inputs.interpolation)(photo)
    evaluated = NormalizedModel(nn.Identity(), inputs.normalization)(pixels[None])[0]
    seen = _Seen()
    ServedClassifier(seen, trial.image_size, trial.eval_resize, *inputs)(torch.from_numpy(CHINA)[None])
    for found in (evaluated, seen.pixels[0]):
        off = (found - expected).abs()
        assert off.max() < 2.01 * LEVEL
        assert (off > 0.01 * LEVEL).float().mean() < 0.02
    (fresh,) = make_plan(ExperimentSpec.parse(fields | {"recipe": {}}), few).trials
    assert build_network(fresh)[1] == Inputs(), "nothing changes without published weights"


def test_validation_and_what_is_logged_have_the_weights_interpolation(
    few: Manifest, hub_cache: Path, tmp_path: Path
) -> None:
    """The digits have 32 px and are enlarged, so that the interpolation shows; also after the training went on."""
    fill(hub_cache, "squeezenet1_1")
    job = make_job(few, tmp_path / "job", variant="squeezenet1_1", pretrained=True, epochs=1, augment=False)
    large = job.trial.model_copy(update={"image_size": 40, "eval_resize": 46})
    job = TrainingJob.model_validate(dict(job) | {"trial": large})
    with pytest.raises(PreemptedError):
        train(job, should_stop=stop_at(2))
    trainer = train(job)
    batch = next(iter(trainer._val_loader))
    digit = Image.open(next(Path(few.root).parent.glob("images/val/0/*.png"))).convert("RGB")
    candidates = [EvalTransform(40, 46, "bilinear")(digit), EvalTransform(40, 46, "bicubic")(digit)]
    found = [any(torch.equal(image, candidate) for image in batch.images) for candidate in candidates]
    assert found == [True, False]
    train_batch = next(trainer._train_loader.epoch(0))
    plain = next(TrainLoader(few, image_size=40, global_batch=12, augment=False, interpolation="bilinear").epoch(0))
    assert torch.equal(train_batch.images, plain.images)
    trained, _ = best_of(CheckpointStore(job.storage))
    assert trained.facts.interpolation == trained.served().interpolation == "bilinear"
    assert ModelFacts.from_dict(trained.facts.to_dict()) == trained.facts
    older = {field: value for field, value in trained.facts.to_dict().items() if field != "interpolation"}
    assert ModelFacts.from_dict(older).interpolation == "bicubic"
    with pytest.raises(ValueError, match="unknown interpolation 'area'"):
        ModelFacts.from_dict(older | {"interpolation": "area"})


@pytest.mark.long
def test_a_bilinear_model_is_exported(tmp_path: Path) -> None:
    """The exporter compares the file with the model on images of several sizes, and refuses another result."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    facts = ModelFacts(variant("b0", num_classes=3), ("a", "b", "c"), 32, 37, interpolation="bilinear")
    small: Any = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    trained = TrainedModel("here", small.eval(), facts)
    assert export_trained(trained, tmp_path / "model.onnx", "onnx") < 5e-3
