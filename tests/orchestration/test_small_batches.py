"""BatchNorm needs two values per channel: planning refuses exactly the trainings in which torch would find one."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet_cluster.datasets import Manifest
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import Execution, WorkerRange
from effnet_cluster.orchestration.training.micro_batch import largest_micro_batch, require_normalizable
from effnet_cluster.orchestration.training.networks import freeze_backbone, set_training_mode

from .trainings import few_digits, make_job, train

TINY = "b0-w0.25-d0.25"


def plan(manifest: Manifest, side: int, batch: int, workers: int | str = 1, name: str = TINY, **recipe: Any) -> Plan:
    fields = {"execution": {"workers": workers}, "recipe": {"global_batch": batch, **recipe}, "image_size": side}
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": name, **fields}), manifest)


ONE_VALUE = [
    ((32, 1), "global batch 1 in micro-batches of 1 image"),
    ((8, 1), "of 8 px is 1x1"),
    ((16, 1), "images of at least 33 px"),
    ((32, 2, 2), "global batch 2 over 2 workers in micro-batches of 1 image"),
    ((32, 8, "1:8"), "global batch 8 over 8 workers"),
    ((32, 1, 1, "resnet50"), "of 32 px is 1x1"),
    ((32, 1, 1, "mobilenetv2"), "of 32 px is 1x1"),
    ((32, 1, 1, f"{TINY},b0"), "digits-b0-w0.25-d0.25-silu-s0: "),
]
MORE_VALUES = [
    *((33, 1), (64, 1), (32, 2), (8, 2), (32, 4, 2), (33, 2, 2), (33, 1, 1, "lite0")),
    *((32, 8, "1:4"), (32, 9, "2:8")),
]


@pytest.mark.parametrize(("case", "message"), ONE_VALUE)
def test_one_value_per_channel_is_refused_when_planning(case: Any, message: str, digits: Manifest) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(digits, *case)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", MORE_VALUES)
def test_more_values_are_planned(case: Any, digits: Manifest) -> None:
    assert plan(digits, *case).trials


@pytest.mark.parametrize(
    ("batch", "micro_batch", "used"), [(2, 1, 1), (7, 4, 1), (6, 4, 3), (7, 7, 7), (4, None, 4), (9, 2, 1)]
)
def test_a_limit_on_micro_batches_counts_as_it_divides_the_batch(
    batch: int, micro_batch: int | None, used: int, digits: Manifest
) -> None:
    if used > 1:
        (trial,) = plan(digits, 32, batch, micro_batch=micro_batch).trials
        assert largest_micro_batch(trial.recipe, 1) == used
        return
    with pytest.raises(UserError, match=f"global batch {batch} in micro-batches of 1 image"):
        plan(digits, 32, batch, micro_batch=micro_batch)


@pytest.mark.parametrize(
    ("recipe", "workers", "planned"),
    [({"freeze_backbone": True}, 1, True), ({"sync_bn": True}, 2, True), ({"sync_bn": True}, 1, False)],
)
def test_frozen_and_synchronised_norms_see_more(
    recipe: dict[str, Any], workers: int, planned: bool, digits: Manifest
) -> None:
    if planned:
        assert plan(digits, 32, workers, workers, **recipe).trials
    else:
        with pytest.raises(UserError, match="BatchNorm"):
            plan(digits, 32, workers, workers, **recipe)


@pytest.mark.parametrize("name", [TINY, "resnet50-w0.25-d0.25", "lite0-w0.25-d0.25"])
def test_what_is_refused_is_what_torch_refuses(name: str, digits: Manifest) -> None:
    (trial,) = plan(digits, 64, 2, name=name).trials
    network = EfficientNet(variant(name, num_classes=3)).train()
    found = set()
    for side, images in itertools.product((8, 31, 32, 33, 48), (1, 2)):
        refusals = []
        for attempt in (
            lambda side=side, images=images: require_normalizable(
                trial.model_copy(update={"image_size": side}), 1, images
            ),
            lambda side=side, images=images: network(torch.randn(images, 3, side, side)),
        ):
            try:
                attempt()
                refusals.append(False)
            except (UserError, ValueError):
                refusals.append(True)
        assert refusals[0] == refusals[1], (side, images)
        found.add(refusals[0])
    assert found == {True, False}


def test_a_frozen_backbone_takes_one_image() -> None:
    network = EfficientNet(variant(TINY, num_classes=3))
    freeze_backbone(network)
    set_training_mode(network)
    assert network(torch.randn(1, 3, 32, 32)).shape == (1, 3)


def test_more_workers_are_refused_where_an_experiment_is_resumed(digits: Manifest) -> None:
    planned = plan(digits, 32, 8, 2)
    assert planned.run_by(Execution(workers=WorkerRange(4, 4)))
    for workers in (WorkerRange(8, 8), WorkerRange(1, 8)):
        with pytest.raises(UserError, match="global batch 8 over 8 workers in micro-batches of 1 image"):
            planned.run_by(Execution(workers=workers))


def test_halving_for_memory_ends_in_the_same_words(tmp_path: Path) -> None:
    job = make_job(few_digits(tmp_path), tmp_path / "storage")
    with pytest.raises(UserError, match="in micro-batches of 1 image leaves BatchNorm one value per channel"):
        train(job.model_copy(update={"micro_batch_divisor": 12}))
