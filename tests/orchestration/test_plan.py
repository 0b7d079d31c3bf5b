"""What will run: models, sizes and costs against torchvision's, and what identifies a training."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effnet_cluster.datasets import BatchSequence, DataError, EpochOrder, Manifest
from effnet_cluster.datasets.manifest import Remote
from effnet_cluster.effnet.activations import ACTIVATION_NAMES
from effnet_cluster.effnet.stages import SHORTCUTS
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import Plan, TrialPlan, make_plan
from effnet_cluster.orchestration.search.names import trial_id
from effnet_cluster.orchestration.sizing.networks import scaled_resolution
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import Execution, WorkerRange
from effnet_cluster.orchestration.training.loaders import make_loaders

from .trainings import ALONE

# The training sizes of the paper's models.
RESOLUTIONS = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}


def plan(manifest: Manifest, **fields: Any) -> Plan:
    return make_plan(ExperimentSpec.parse({"name": "x", "variants": "b0", **fields}), manifest)


@pytest.mark.parametrize("name", [f"b{number}" for number in range(8)])
def test_parameters_equal_those_of_torchvisions_model_with_the_datas_classes(name: str, digits: Manifest) -> None:
    models = pytest.importorskip("torchvision.models")
    (trial,) = plan(digits, variants=name).trials
    with torch.device("meta"):
        theirs = getattr(models, f"efficientnet_{name}")(num_classes=10)
    assert trial.model.num_classes == 10
    assert trial.params == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", ["b0", "b3"])
def test_multiply_adds_equal_those_that_hooks_count_in_torchvisions_model(name: str, digits: Manifest) -> None:
    models = pytest.importorskip("torchvision.models")
    (trial,) = plan(digits, variants=name, image_size=64).trials
    counted = 0

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        counted += weight[0].numel() * output.numel()

    with torch.device("meta"):
        theirs = getattr(models, f"efficientnet_{name}")(num_classes=10).eval()
        for layer in theirs.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.register_forward_hook(count)
        theirs(torch.empty(1, 3, 64, 64))
    assert trial.macs == counted


def test_large_photographs_are_trained_at_each_variants_own_size(large_photos: Manifest) -> None:
    assert large_photos.image_size >= 224
    trials = plan(large_photos, variants="b0-b7", recipe={"global_batch": 4}).trials
    assert {t.variant: t.image_size for t in trials} == RESOLUTIONS


def test_small_images_are_not_blown_up_and_grow_by_the_compound_factor(digits: Manifest) -> None:
    assert digits.image_size == 32
    trials = plan(digits, variants="b0-b7").trials
    sizes = [t.image_size for t in trials]
    assert sizes[0] == 32
    assert sizes == sorted(sizes)
    for trial, size in zip(trials, sizes, strict=True):
        assert size % 8 == 0
        assert abs(size - 32 * RESOLUTIONS[trial.variant] / 224) <= 4


@pytest.mark.parametrize("native", [1, 8, 31, 32, 33, 64, 100, 223])
def test_a_small_size_is_a_multiple_of_8_near_the_images_and_never_under_32(native: int) -> None:
    for resolution in RESOLUTIONS.values():
        size = scaled_resolution(resolution, native)
        assert size % 8 == 0
        assert size == 32 or abs(size - native * resolution / 224) <= 4
    assert [scaled_resolution(r, 224) for r in RESOLUTIONS.values()] == list(RESOLUTIONS.values())


def test_a_size_that_was_asked_for_holds_for_all(digits: Manifest) -> None:
    assert {t.image_size for t in plan(digits, variants="b0-b7", image_size=48).trials} == {48}


def test_the_evaluation_resize_keeps_the_variants_ratio_and_covers_the_crop(digits: Manifest) -> None:
    presets = pytest.importorskip("torchvision.models")
    for trial in plan(digits, variants="b0-b7").trials:
        theirs = presets.get_model_weights(f"efficientnet_{trial.variant}").IMAGENET1K_V1.transforms()
        expected = theirs.resize_size[0] / RESOLUTIONS[trial.variant]
        assert abs(trial.eval_resize - trial.image_size * expected) <= 0.5
        assert trial.eval_resize >= trial.image_size


def test_trial_ids_are_unique_readable_and_start_with_the_data(digits: Manifest) -> None:
    trials = plan(
        digits, variants="b0-b7", activations=ACTIVATION_NAMES, shortcuts=tuple(SHORTCUTS), seeds=[0, 1, 10]
    ).trials
    assert len({t.trial_id for t in trials}) == len(trials) == 8 * len(ACTIVATION_NAMES) * len(SHORTCUTS) * 3
    assert all(t.trial_id.startswith(f"digits-{t.variant}-{t.model.activation}-") for t in trials)
    assert trial_id("flowers", "b3", "silu", "residual", 0) == "flowers-b3-silu-s0"


def test_a_scaled_variant_is_planned_under_its_canonical_name_with_the_recipes_overrides(digits: Manifest) -> None:
    wide, half = plan(digits, variants="b0-w1.40,b0.5", image_size=64, recipe={"stochastic_depth": 0.1}).trials
    assert (wide.trial_id, wide.variant, wide.model.name) == ("digits-b0-w1.4-silu-s0", "b0-w1.4", "b0-w1.4")
    assert (wide.model.width, wide.model.depth, wide.model.num_classes) == (1.4, 1.0, 10)
    assert (half.model.stochastic_depth, half.trial_id) == (0.1, "digits-b0.5-silu-s0")
    assert half.model.depth == pytest.approx(1.2**0.5)
    assert TrialPlan.model_validate_json(wide.model_dump_json()) == wide


@pytest.mark.parametrize("data", ["Flower Photos (2)", "it's", "a/../b", "花", "x" * 300, "", "-_-", "a\nb"])
def test_a_trial_id_is_a_file_name_and_a_word_whatever_the_data_are_called(data: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,80}", trial_id(data, "b0", "leaky_relu", "identity_conv", 2**32 - 1))


def test_the_plan_counts_the_data(digits: Manifest) -> None:
    planned = plan(digits, recipe={"global_batch": 100})
    assert (planned.train_samples, planned.val_samples) == (1438, 359)
    assert planned.classes == tuple("0123456789")
    assert planned.trials[0].batches_per_epoch == 14
    assert planned.data_digest == digits.digest


def test_dropout_and_stochastic_depth_are_the_variants_unless_given(digits: Manifest) -> None:
    own = plan(digits, variants="b0,b7").trials
    assert [t.model.dropout for t in own] == [0.2, 0.5]
    given = plan(digits, variants="b0,b7", recipe={"dropout": 0.0, "stochastic_depth": 0.05}).trials
    assert {(t.model.dropout, t.model.stochastic_depth) for t in given} == {(0.0, 0.05)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"execution": {"workers": 3}, "recipe": {"global_batch": 32}},
            "global batch 32 cannot be shared by 3 workers",
        ),
        ({"recipe": {"global_batch": 1439}}, "global batch 1439 is larger than the 1438 training samples"),
        (
            {"execution": {"workers": 64}, "recipe": {"global_batch": 32}},
            "global batch 32 cannot be shared by 64 workers",
        ),
    ],
)
def test_a_batch_that_cannot_be_is_refused_in_one_line(fields: dict[str, Any], message: str, digits: Manifest) -> None:
    with pytest.raises(DataError, match=message) as caught:
        plan(digits, **fields)
    assert "\n" not in str(caught.value)


def test_the_largest_batch_that_fits_is_accepted(digits: Manifest) -> None:
    assert plan(digits, execution={"workers": 2}, recipe={"global_batch": 1438}).trials[0].batches_per_epoch == 1


def digests(planned: Plan) -> list[str]:
    """What names the trainings of a plan, in its order."""
    return [trial.digest(planned.data_digest) for trial in planned.trials]


@pytest.mark.parametrize(
    "change",
    [
        {"variants": "b1"},
        {"activations": "relu"},
        {"shortcuts": "none"},
        {"seeds": [1]},
        {"image_size": 40},
        {"recipe": {"lr": 1e-3}},
        {"recipe": {"global_batch": 16}},
        {"recipe": {"weight_decay": 0.0}},
        {"recipe": {"warmup_epochs": 2}},
        {"recipe": {"label_smoothing": 0.0}},
        {"recipe": {"dropout": 0.3}},
        {"recipe": {"stochastic_depth": 0.1}},
        {"recipe": {"bn_momentum": 0.01}},
        {"recipe": {"augment": False}},
        {"recipe": {"min_crop": 0.5}},
        {"recipe": {"precision": "bfloat16"}},
        {"variants": "b0-b1"},
    ],
)
def test_the_digest_changes_with_everything_that_changes_the_training(change: dict[str, Any], digits: Manifest) -> None:
    assert digests(plan(digits, **change)) != digests(plan(digits))


def test_the_digest_is_the_trials_own_and_does_not_change_with_others_or_more_epochs(digits: Manifest) -> None:
    alone = digests(plan(digits))
    assert digests(plan(digits, variants="b0-b1", seeds=[0, 1]))[0] == alone[0]
    assert len(set(digests(plan(digits, variants="b0-b1", seeds=[0, 1])))) == 4
    assert digests(plan(digits, recipe={"epochs": 11})) == alone


def test_the_digest_changes_with_the_data_alone(digits: Manifest) -> None:
    planned = plan(digits)
    assert digests(planned.model_copy(update={"data_digest": "0" * 64})) != digests(planned)


def test_the_digest_does_not_change_with_how_it_is_run(digits: Manifest) -> None:
    first = digests(plan(digits))
    assert digests(plan(digits)) == first
    execution = {"workers": 2, "loader_workers": 1, "max_failures": 0, "max_concurrent": 1}
    assert digests(plan(digits, execution=execution)) == first


def test_a_plan_can_be_run_in_another_way_but_not_by_workers_that_do_not_share_its_batch(digits: Manifest) -> None:
    planned = plan(digits, recipe={"global_batch": 100})
    other = planned.run_by(Execution(workers=WorkerRange(1, 4), max_failures=0))
    assert (other.trials, digests(other)) == (planned.trials, digests(planned))
    assert other.worker_counts(other.trials[0]) == (1, 2, 4)
    assert other.run_by(Execution()) == planned
    with pytest.raises(DataError, match="global batch 100 cannot be shared by 3 workers"):
        planned.run_by(Execution(workers=WorkerRange(3, 3)))
    with pytest.raises(UserError, match="by any number of workers from 6 to 9"):
        planned.run_by(Execution(workers=WorkerRange(6, 9)))


def test_a_trial_survives_its_trip_as_json(digits: Manifest) -> None:
    for trial in plan(digits, variants="b0-b7", activations="prelu", shortcuts="identity_conv", seeds=[7]).trials:
        assert TrialPlan.model_validate_json(trial.model_dump_json()) == trial


def test_every_input_of_the_order_is_in_the_plan_wherever_the_data_lie(digits: Manifest, tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(digits, root=tmp_path, remote=Remote("s3://bucket/digits", 2**40))
    for fields in ({}, {"shuffle_block": 2, "seeds": "7", "recipe": {"global_batch": 50, "tail": "carry"}}):
        here, there = plan(digits, **fields), plan(elsewhere, **fields)
        assert (here.trials, digests(here)) == (there.trials, digests(there))
        # As written down, with nothing of the manifest but what its digest covers.
        (trial,) = Plan.model_validate_json(there.model_dump_json()).trials
        order = EpochOrder(digits.splits["train"].shard_samples, trial.seed, trial.shuffle_block)
        written = BatchSequence(order, trial.recipe.global_batch, trial.recipe.tail)
        for manifest in (digits, elsewhere):
            (planned,) = plan(manifest, **fields).trials
            loader, _ = make_loaders(planned, Execution(), manifest, 1, ALONE)
            for epoch in (0, 1):
                assert np.array_equal(loader.sequence.samples(epoch).ids, written.samples(epoch).ids)
                assert loader.sequence.batches_in(epoch) == written.batches_in(epoch)


@pytest.mark.parametrize("change", [{"seeds": "1"}, {"shuffle_block": 2}, {"global_batch": 64}, {"tail": "carry"}])
def test_a_change_of_any_input_of_the_order_is_another_training(digits: Manifest, change: dict[str, Any]) -> None:
    fields = change if change.keys() <= {"seeds", "shuffle_block"} else {"recipe": change}
    assert digests(plan(digits, **fields)) != digests(plan(digits))
    unmirrored = dataclasses.replace(digits, mirror_safe=not digits.mirror_safe)
    assert digests(plan(unmirrored)) != digests(plan(digits))
