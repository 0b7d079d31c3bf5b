"""The script that trials are measured against: it trains the model, data and recipe that it is given, on any ranks."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from effnet_cluster.benchmarks.train import run_torchrun, task_of
from effnet_cluster.datasets import Manifest, TrainLoader, prepare
from effnet_cluster.effnet import EfficientNet
from effnet_cluster.orchestration.plan import TrialPlan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec

from ..photos import cut_photos

EPOCHS, BATCH = 2, 8
# A low rate: Adam's first steps have the size of the rate whatever the gradient's, rounding errors included.
RECIPE = {"epochs": EPOCHS, "global_batch": BATCH, "lr": 5e-4, "warmup_epochs": 0.5, "dropout": 0.0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("photos")
    return prepare(cut_photos(root / "photos", (40, 60), 20), root / "shards")


@pytest.fixture(scope="module")
def spec(photos: Manifest) -> ExperimentSpec:
    fields = {"name": "bench", "data": str(photos.root), "variants": "b0-w0.25-d0.25", "image_size": 32}
    return ExperimentSpec.parse(fields | {"recipe": RECIPE | {"stochastic_depth": 0.0}})


def test_two_ranks_train_as_one_process_that_sees_both_their_slices(
    photos: Manifest, spec: ExperimentSpec, tmp_path: Path, one_thread: None
) -> None:
    trial = make_plan(spec, photos).trials[0]
    epochs = run_torchrun(task_of(trial, spec, tmp_path, tmp_path / "two.pt"), 2, 1, tmp_path)
    model, losses = reference(trial, photos, slices=2)
    # Rank 0's own loss, of its half of every batch.
    assert [epoch.loss for epoch in epochs] == pytest.approx(losses, rel=1e-3)
    assert [epoch.threads for epoch in epochs] == [1, 1]
    assert all(0 < epoch.wait_share < 1 and epoch.seconds > 0 for epoch in epochs)
    trained = torch.load(tmp_path / "two.pt", weights_only=True)["model"]
    # Of matrices only: the gradient of a bias that the next norm takes away again is nothing but rounding.
    initial, _ = reference(trial, photos, slices=2, epochs=0)
    moved = distance(dict(initial.named_parameters()), model)
    assert distance(trained, model) < 0.05 * moved


def distance(tensors: Mapping[str, torch.Tensor], model: EfficientNet) -> float:
    """Euclidean, over all matrices and kernels of the model."""
    with torch.no_grad():
        parts = [(tensors[name] - value).square().sum() for name, value in model.named_parameters() if value.ndim > 1]
        return float(torch.stack(parts).sum().sqrt())


def reference(
    trial: TrialPlan, photos: Manifest, slices: int, epochs: int = EPOCHS
) -> tuple[EfficientNet, list[float]]:
    """The recipe without a process group: the mean of the slices' gradients, each with its own batch statistics.

    The schedule is that of `EPOCHS`. Returns the network after `epochs` and, by epoch, the first slice's mean loss.
    """
    recipe = trial.recipe
    torch.manual_seed(trial.seed)
    model = EfficientNet(trial.model)
    torch.nn.init.normal_(model.classifier.weight, std=0.01)
    torch.nn.init.zeros_(model.classifier.bias)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    loader = TrainLoader(
        photos,
        image_size=trial.image_size,
        global_batch=BATCH,
        seed=trial.seed,
        shuffle_block=trial.shuffle_block,
        crop_scale=(trial.min_crop, 1.0),
    )
    steps = loader.sequence.batches_in(0)
    warmup, total = steps * recipe.warmup_epochs, steps * EPOCHS
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0}], weight_decay=0.02)
    step, losses = 0, []
    for epoch in range(epochs):
        first = 0.0
        for batch in loader.epoch(epoch):
            cosine = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * ((step + 1) / warmup if step < warmup else cosine)
            optimizer.zero_grad()
            pairs = zip(batch.images.chunk(slices), batch.labels.chunk(slices), strict=True)
            for number, (images, labels) in enumerate(pairs):
                logits = model((images / 255 - mean) / std)
                loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                (loss / slices).backward()
                first += loss.item() / steps if number == 0 else 0.0
            optimizer.step()
            step += 1
        losses.append(first)
    return model, losses
