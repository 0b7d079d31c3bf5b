"""The trainer on plain gloo, without an engine: the loop, what it logs, and how it goes on after an interruption."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effnet_cluster.datasets import DataError, EpochOrder, Manifest, TrainLoader, receipt
from effnet_cluster.effnet import EfficientNet, variant
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.tracking.trained import best_of
from effnet_cluster.orchestration.training import assembly, metrics, trainer
from effnet_cluster.orchestration.training.checkpoint import encode
from effnet_cluster.orchestration.training.checkpoint_store import CheckpointStore
from effnet_cluster.orchestration.training.classifier import NormalizedModel
from effnet_cluster.orchestration.training.collectives import lone_rank
from effnet_cluster.orchestration.training.errors import NonFiniteLossError, PreemptedError
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.model_facts import ModelFacts
from effnet_cluster.orchestration.training.normalization import Normalization
from effnet_cluster.orchestration.training.world import World

from ..differences import differences
from .trainings import ALONE, BATCH, STEPS, TRAIN, Memory, few_digits, final_state, make_job, stop_at, train

pytestmark = pytest.mark.usefixtures("one_thread")
EPOCHS = 2
RECIPES: dict[str, dict[str, Any]] = {
    "basic": {},
    "average": {"ema": 0.9},
    "micro-batches": {"micro_batch": 4, "clip_grad": 0.5},
    "mixing": {"mixup": 0.4, "cutmix": 1.0, "erasing": 0.5, "policy": "rand"},
    "carry": {"tail": "carry", "optimizer": "rmsprop", "schedule": "step"},
    "float16": {"precision": "float16", "optimizer": "sgd"},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_digits(tmp_path_factory.mktemp("few"))


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    progress = {
        name: value for name, value in state["progress"].items() if name not in ("seconds", "epoch_seconds", "waited")
    }
    return {**state, "progress": progress}


def curves(sink: Memory) -> list[Any]:
    epochs = {n: {k: v for k, v in m.items() if not k.startswith("time/")} for n, m in sink.epochs.items()}
    return [sorted(sink.steps.values()), epochs]


def test_an_epoch_is_reported_with_what_the_manifest_says(digits: Manifest, tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    sink = Memory()
    train(make_job(digits, tmp_path), sink, report=reports.append)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert [sink.epochs[epoch] for epoch in (1, 2)] == reports
    order = EpochOrder(digits.split("train").shard_samples, seed=0)
    for epoch, report in enumerate(reports):
        consumed = order.sample_ids(epoch)[: STEPS * BATCH]
        high, low = int(report["receipt/high"]), int(report["receipt/low"])
        assert (high << 32) + low == receipt(np.arange(STEPS * BATCH), consumed)
        assert report["train/samples"] == STEPS * BATCH < TRAIN
        assert report["val/samples"] == len(digits.split("val"))
        assert 0 <= report["val/top1"] <= report["val/top5"] <= 1
        assert report["val/best_top1"] == max(r["val/top1"] for r in reports[: epoch + 1])
    assert list(sink.steps) == list(range(1, EPOCHS * STEPS + 1))
    mean = np.mean([sink.steps[step].loss for step in range(1, STEPS + 1)])
    assert reports[0]["train/epoch_loss"] == pytest.approx(mean)


def test_the_weights_are_those_of_a_loop_written_by_hand(digits: Manifest, tmp_path: Path) -> None:
    plain = {"dropout": 0.0, "stochastic_depth": 0.0, "warmup_epochs": 0}
    job = make_job(digits, tmp_path, epochs=1, optimizer="sgd", lr=0.05, weight_decay=0.1, **plain)
    train(job)
    torch.manual_seed(0)
    network = EfficientNet(job.trial.model)
    nn.init.normal_(network.classifier.weight, std=0.01)
    nn.init.zeros_(network.classifier.bias)
    network = network.to(memory_format=torch.channels_last).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    loader = TrainLoader(digits, image_size=32, global_batch=BATCH, seed=0, crop_scale=(job.trial.min_crop, 1.0))
    for step, batch in enumerate(loader.epoch(0)):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        F.cross_entropy(network((batch.images / 255 - mean) / std), batch.labels, label_smoothing=0.1).backward()
        optimizer.step()
    ours = final_state(job)["model"]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_that_was_preempted_before_any_step_ends_as_if_nothing_had_happened(
    recipe: str, digits: Manifest, tmp_path: Path
) -> None:
    calm, sink = make_job(digits, tmp_path / "calm", **RECIPES[recipe]), Memory()
    train(calm, sink)
    expected, curve = without_times(final_state(calm)), curves(sink)
    steps = len(sink.steps)
    assert steps in (EPOCHS * STEPS, EPOCHS * TRAIN // BATCH)
    for step in range(steps):
        job, sink = make_job(digits, tmp_path / str(step), **RECIPES[recipe]), Memory()
        with pytest.raises(PreemptedError, match="asked to leave at epoch"):
            train(job, sink, should_stop=stop_at(step))
        left = final_state(job)["progress"]
        assert left["epoch"] * STEPS + left["batch"] == step or recipe == "carry"
        train(job, sink)
        assert differences(expected, without_times(final_state(job))) == []
        assert curves(sink) == curve


def test_what_could_not_be_sent_is_kept_until_a_training_has_sent_it(digits: Manifest, tmp_path: Path) -> None:
    job, store = make_job(digits, tmp_path), CheckpointStore(str(tmp_path))
    assert store.unsent() == []
    with pytest.raises(PreemptedError):
        train(job, Memory(waiting=[{"x": 1}, {"y": "ü"}]), should_stop=stop_at(1))
    assert store.unsent() == [{"x": 1}, {"y": "ü"}]
    train(job)
    assert store.unsent() == []


def test_preempted_at_every_step_it_still_gets_on(digits: Manifest, tmp_path: Path) -> None:
    calm, calm_sink = make_job(digits, tmp_path / "calm", ema=0.9), Memory()
    train(calm, calm_sink)
    job, sink = make_job(digits, tmp_path / "job", ema=0.9), Memory()
    for _ in range(EPOCHS * STEPS - 1):
        with pytest.raises(PreemptedError):
            train(job, sink, should_stop=stop_at(1))
    train(job, sink)
    assert differences(without_times(final_state(calm)), without_times(final_state(job))) == []
    assert curves(sink) == curves(calm_sink)


def test_checkpoints_within_an_epoch_change_nothing_and_are_where_a_killed_run_goes_on(
    digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = make_job(digits, tmp_path / "calm")
    train(calm)
    job = make_job(digits, tmp_path / "job", execution={"checkpoint_steps": 3})
    steps = 0
    step = assembly.TrainingParts.step

    def dying(*arguments: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(assembly.TrainingParts, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(job)
    left = final_state(job)["progress"]
    assert (left["epoch"], left["batch"]) == (1, 0)
    steps = 100
    train(job)
    assert steps == 100 + STEPS
    assert differences(without_times(final_state(calm)), without_times(final_state(job))) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    digits: Manifest, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    calm = make_job(digits, tmp_path / "calm", ema=0.9)
    train(calm)
    job = make_job(digits, tmp_path / "job", ema=0.9, execution={"checkpoint_steps": 2})
    with pytest.raises(PreemptedError):
        train(job, should_stop=stop_at(STEPS + 3))
    before, last = sorted(Path(job.storage, "checkpoints").glob("*.pt"))[-2:]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[:-1000], "flipped": content, "empty": b"", "foreign": b"PK hello"}[damage])
    train(job)
    assert f"{last} is no checkpoint, or a damaged one" in caplog.text
    assert f"batch {int(before.stem[-9:])}" in caplog.text
    assert differences(without_times(final_state(calm)), without_times(final_state(job))) == []


def test_where_every_checkpoint_is_damaged_nothing_starts_from_nothing(digits: Manifest, tmp_path: Path) -> None:
    job = make_job(digits, tmp_path, execution={"checkpoint_steps": 2})
    with pytest.raises(PreemptedError):
        train(job, should_stop=stop_at(STEPS - 1))
    files = list(Path(job.storage, "checkpoints").glob("*.pt"))
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        train(job)
    assert all(file.exists() for file in files)


def test_the_average_is_saved_once(digits: Manifest, tmp_path: Path) -> None:
    sizes = {}
    for ema in (0.0, 0.9):
        job = make_job(digits, tmp_path / str(ema), ema=ema, optimizer="sgd", momentum=0, epochs=1)
        train(job)
        sizes[ema] = sorted(Path(job.storage, "checkpoints").glob("*.pt"))[-1].stat().st_size
    weights = sum(value.nbytes for value in EfficientNet(job.trial.model).state_dict().values())
    assert sizes[0.9] - sizes[0.0] < 1.3 * weights


def test_what_a_sink_could_not_send_is_in_the_checkpoint_and_comes_back(digits: Manifest, tmp_path: Path) -> None:
    job, waiting = make_job(digits, tmp_path), [{"at": 1, "points": [[3, {"a": 0.5}]]}]
    sink = Memory(waiting=waiting)
    with pytest.raises(PreemptedError):
        train(job, sink, should_stop=stop_at(1))
    assert sink.closed
    assert sink.restored == []
    after = Memory()
    train(job, after)
    assert after.restored == waiting
    assert after.closed


def test_what_a_training_started_from_may_be_gone_when_it_goes_on(digits: Manifest, tmp_path: Path) -> None:
    """The weights are those of a training with a normalisation of its own, which goes on as well."""
    start, ours = tmp_path / "start.pt", Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    config = make_job(digits, tmp_path).trial.model
    facts = ModelFacts(config, digits.classes, 32, 36, ours).to_dict()
    start.write_bytes(encode({"model": EfficientNet(config).state_dict(), "ema": None, "facts": facts}))
    whole, halved = (make_job(digits, tmp_path / name, weights=str(start)) for name in ("whole", "halved"))
    train(whole)
    with pytest.raises(PreemptedError):
        train(halved, should_stop=stop_at(STEPS + 1))
    start.unlink()
    assert train(halved).parts.facts.normalization == ours
    assert differences(without_times(final_state(whole)), without_times(final_state(halved))) == []
    with pytest.raises(UserError, match=r"start\.pt"):
        train(make_job(digits, tmp_path / "fresh", weights=str(start)))


def test_the_curves_are_live(digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run(folder: str, seconds: float) -> Memory:
        monkeypatch.setattr(trainer, "_LIVE_S", seconds)
        sink = Memory()
        seen.clear()
        train(make_job(digits, tmp_path / folder), sink, should_stop=lambda: bool(seen.append(len(sink.steps))))
        return sink

    late = run("late", 1e9)
    assert set(seen[:STEPS]) == {0}
    live = run("live", 0.0)
    assert max(seen[:STEPS]) >= 1, "nothing was logged before the epoch's end"
    assert curves(live) == curves(late)


def test_a_loss_that_is_not_finite_ends_the_training_and_names_what_was_seen(digits: Manifest, tmp_path: Path) -> None:
    job, sink = make_job(digits, tmp_path, lr=1e30, optimizer="sgd", warmup_epochs=0), Memory()
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 1 \(epoch 1, batch 1, samples") as caught:
        train(job, sink)
    ((name, text),) = sink.texts.items()
    assert name == "faults/step-1-sample-ids.txt"
    order = EpochOrder(digits.split("train").shard_samples, seed=0)
    ids = [int(line) for line in text.splitlines()]
    assert ids == order.sample_ids(0)[BATCH : 2 * BATCH].tolist()
    assert ", ".join(map(str, ids)) in str(caught.value)
    assert "checkpoint is none" in str(caught.value)


def test_the_gradient_scaler_is_used_and_saved(digits: Manifest, tmp_path: Path) -> None:
    job = make_job(digits, tmp_path, precision="float16", optimizer="sgd", lr=1e-4)
    done = train(job)
    assert done.parts.scaler.is_enabled()
    saved = final_state(job)
    assert saved["scaler"]["scale"] > 0
    assert saved["precision"] == "float16"


def test_a_step_whose_gradients_overflow_is_left_out_and_halves_the_scale(digits: Manifest, tmp_path: Path) -> None:
    job = make_job(digits, tmp_path, precision="float16", optimizer="sgd", epochs=1)
    with pytest.raises(PreemptedError):
        train(job, should_stop=stop_at(0))
    state = final_state(job)
    state["scaler"]["scale"] = 2.0**80
    file = next(Path(job.storage, "checkpoints").glob("*.pt"))
    torch.save(state, file)
    with pytest.raises(PreemptedError):
        train(job, should_stop=stop_at(1))
    after = final_state(job)
    assert after["scaler"]["scale"] == 2.0**79
    weights = [name for name, _ in EfficientNet(job.trial.model).named_parameters()]
    assert all(torch.equal(state["model"][name], after["model"][name]) for name in weights)


@pytest.mark.parametrize("best_epoch", [1, 2, 3])
def test_the_model_of_a_finished_training_is_the_best_epochs(
    best_epoch: int, digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, store = Memory(), CheckpointStore(str(tmp_path))
    evaluate, epochs = trainer.evaluate, iter((1, 2, 3))
    added, plain = {best_epoch: 1.0}, list[float]()

    def favour(*given: Any) -> dict[str, float | int]:
        found = evaluate(*given)
        plain.append(found["top1"])
        return found | {"top1": found["top1"] + added.get(next(epochs), 0)}

    monkeypatch.setattr(trainer, "evaluate", favour)
    done = train(make_job(digits, tmp_path, epochs=3, ema=0.5), sink)
    trained, top1 = best_of(store)
    assert top1 == sink.epochs[best_epoch]["val/top1"] == max(found["val/top1"] for found in sink.epochs.values())
    assert trained.facts.classes == ("0", "1", "2")
    images, model = store.example(), trained.served()
    assert (images.dtype, images.shape) == (np.uint8, (2, 36, 32, 3))
    right = total = 0
    for batch in done._val_loader:
        found = model(batch.images.permute(0, 2, 3, 1)).argmax(1)
        right += int(((found == batch.labels) & batch.mask).sum())
        total += int(batch.mask.sum())
    assert right / total == plain[best_epoch - 1]


def test_data_other_than_planned_and_another_specification_are_refused(digits: Manifest, tmp_path: Path) -> None:
    job = make_job(digits, tmp_path)
    with pytest.raises(RuntimeError, match="is not the plan's"):
        train(job.model_copy(update={"data_digest": "0" * 64}))
    with pytest.raises(PreemptedError):
        train(job, should_stop=stop_at(1))
    with pytest.raises(UserError, match="was written by another specification"):
        train(with_recipe(job, lr=2e-3))


def with_recipe(job: TrainingJob, **fields: Any) -> TrainingJob:
    recipe = job.trial.recipe.model_copy(update=fields)
    return job.model_copy(update={"trial": job.trial.model_copy(update={"recipe": recipe})})


def test_a_finished_training_goes_on_for_more_epochs_and_logs_no_step_or_epoch_twice(
    digits: Manifest, tmp_path: Path
) -> None:
    job, sink = make_job(digits, tmp_path), Memory()
    train(job, sink)
    first = dict(sink.epochs)
    assert list(first) == [1, 2]
    longer = with_recipe(job, epochs=4)
    train(longer, sink)
    assert list(sink.epochs) == [1, 2, 3, 4]
    assert {epoch: sink.epochs[epoch] for epoch in first} == first
    assert best_of(CheckpointStore(str(tmp_path)))[1] == max(values[metrics.TOP1] for values in sink.epochs.values())
    # The learning rate is that of the longer training from there on, and ends near 0.
    rates = [point.lr for _, point in sorted(sink.steps.items())]
    steps = len(rates) // 4
    assert rates[2 * steps] > rates[2 * steps - 1]
    assert rates[-1] < 0.1 * max(rates)


def test_synchronised_batch_norm_is_refused_without_gpus(digits: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sync-bn needs GPUs"):
        train(make_job(digits, tmp_path, sync_bn=True))


def test_synchronised_batch_norm_comes_after_the_probe_and_keeps_tensors_and_keys(
    digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(digits, tmp_path, sync_bn=True, ema=0.9)
    synchronise, probed = assembly.synchronise, list[type]()

    def choose(job: TrainingJob, world: World, precision: str, attempt: Any, saved: None) -> int:
        probed.extend(type(module) for module in attempt.args[0].modules())
        assert attempt.args[1].network is attempt.args[0]
        return BATCH

    monkeypatch.setattr(assembly, "_choose_micro_batch", choose)
    monkeypatch.setattr(assembly, "synchronise", lambda network, _: synchronise(network, torch.device("cuda")))
    with lone_rank():
        parts = assembly.assemble(job, ALONE, digits.classes, None)
    assert nn.BatchNorm2d in probed
    assert nn.SyncBatchNorm not in probed
    found = [type(module) for module in parts.model.modules()]
    assert found.count(nn.SyncBatchNorm) == probed.count(nn.BatchNorm2d)
    assert nn.BatchNorm2d not in found
    assert list(parts.network.state_dict()) == list(EfficientNet(job.trial.model).state_dict())
    # The optimizer and the average got the tensors before the norms were replaced.
    trained = {id(parameter) for group in parts.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in parts.network.parameters()}
    assert parts.ema
    averaged = {tensor.data_ptr() for tensor in (*parts.ema._values, *parts.ema._counts)}
    assert averaged == {t.data_ptr() for t in (*parts.network.parameters(), *parts.network.buffers())}


@pytest.mark.parametrize("fails", [False, True])
def test_a_probe_of_memory_leaves_no_trace_also_where_it_fails(fails: bool) -> None:
    network = EfficientNet(variant("b0", width=0.25, depth=0.25, num_classes=3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()

    def fail(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        if fails:
            raise torch.OutOfMemoryError("in the middle of the forward pass")

    network.classifier.register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError) if fails else contextlib.nullcontext():
        assembly._attempt(
            network, NormalizedModel(network), nn.CrossEntropyLoss(), torch.autocast("cpu", enabled=False), 32, 2
        )
    assert differences(before, network.state_dict()) == []
    assert [name for name, parameter in network.named_parameters() if parameter.grad is not None] == []
    assert torch.equal(torch.get_rng_state(), random)


def test_a_lone_rank_is_not_wrapped(digits: Manifest, tmp_path: Path) -> None:
    done = train(make_job(digits, tmp_path, epochs=1))
    assert done.parts.take_step.model is done.parts.model


def test_a_job_survives_json(digits: Manifest, tmp_path: Path) -> None:
    job = make_job(digits, tmp_path, execution={"workers": "2:4", "on_corrupt": "skip"}, dropout=0.1)
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job


def test_a_corrupt_image_is_replaced_counted_and_listed_also_after_an_interruption(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digits = few_digits(tmp_path / "data")
    train_split = digits.split("train")
    order = EpochOrder(train_split.shard_samples, seed=0)
    spoiled = int(order.sample_ids(0)[3])  # in the first batch
    with (digits.root / train_split.shards[train_split.shard[spoiled]].name).open("r+b") as file:
        file.seek(int(train_split.offset[spoiled]))
        file.write(bytes(int(train_split.size[spoiled])))
    key = train_split.key(spoiled)
    with pytest.raises(DataError, match=f"sample {key}: "):
        train(make_job(digits, tmp_path / "stop", epochs=1))

    job, sink = make_job(digits, tmp_path / "skip", epochs=1, execution={"on_corrupt": "skip"}), Memory()
    with pytest.raises(PreemptedError):
        train(job, sink, should_stop=stop_at(2))
    with caplog.at_level("INFO"):
        train(job, sink)
    assert sink.epochs[1]["data/corrupt"] == 1
    ((name, text),) = sink.texts.items()
    assert name == "corrupt/epoch-001.txt"
    assert text.count(f"sample {key}: ") == caplog.text.count(f"sample {key}: ") == 1
    assert "replaced by sample" in text


@pytest.mark.parametrize("recipe", [{"micro_batch": 4}, {"precision": "float16", "optimizer": "sgd"}])
def test_gradients_are_measured_by_part_before_they_are_cut_and_change_nothing(
    digits: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    totals: list[float] = []
    clip = nn.utils.clip_grad_norm_

    def noting(parameters: Any, largest: float) -> torch.Tensor:
        totals.append(float(total := clip(parameters, largest)))
        return total

    recipe |= {"clip_grad": 0.01}
    plain = make_job(digits, tmp_path / "without", **recipe)
    train(plain)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", noting)
    sink = Memory()
    job = make_job(digits, tmp_path / "with", execution={"gradient_norms": True}, **recipe)
    train(job, sink)
    assert not differences(without_times(final_state(job))["model"], without_times(final_state(plain))["model"])
    for epoch, total in zip((1, 2), (totals[0], totals[STEPS]), strict=True):
        norms = {metrics.gradient_part(name): value for name, value in sorted(sink.epochs[epoch].items())}
        del norms[None]
        assert list(norms) == ["stem", *(f"stage {number}" for number in range(1, 8)), "head", "classifier"]
        assert min(norms.values()) > 0
        assert math.hypot(*norms.values()) == pytest.approx(total, rel=1e-4)
