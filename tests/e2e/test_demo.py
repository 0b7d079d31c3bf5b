"""The demo sweep: two variants, two activations, two DDP workers, on real handwritten digits."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pytest

from effnet_cluster.datasets import EpochOrder, Manifest, decode_rgb, receipt

from .conftest import DEMO, DEMO_EPOCHS, DEMO_VARIANTS, Cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
TRIALS = {f"digits-{variant}-{act}-s0" for variant in DEMO_VARIANTS for act in ("silu", "leaky_relu")}
LAST = f"digits-{DEMO_VARIANTS[1]}-silu-s0"


def test_the_demo_learns_and_ends_with_a_comparison(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    rows = json.loads(cli("compare", DEMO, "--format", "json").stdout)
    assert {row["trial"] for row in rows} == TRIALS
    assert max(row["top1"] for row in rows) >= 0.90
    for row in rows:
        assert row["outcome"] == "completed"
        assert row["trial"] in demo.stdout
        assert row["seconds"] > 1
    b0, b1 = (next(r for r in rows if r["trial"] == f"digits-{v}-silu-s0") for v in DEMO_VARIANTS)
    assert b0["params_ratio"] == 1.0
    assert b1["params_ratio"] == pytest.approx(b1["params"] / b0["params"])
    assert b1["macs_ratio"] == pytest.approx(b1["macs"] / b0["macs"])
    table = list(csv.DictReader(io.StringIO(cli("compare", DEMO, "--format", "csv").stdout)))
    assert {row["trial"] for row in table} == TRIALS
    services = cli.services()
    assert services["mlflow"]["url"] in demo.stderr
    assert services["ray"]["url"] in demo.stderr


def test_every_trial_is_one_finished_child_run(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    parent = cli.parent_run(DEMO)
    assert parent.info.status == "FINISHED"
    runs = cli.trial_runs(DEMO)
    assert set(runs) == TRIALS
    for trial, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.tags["outcome"] == "completed"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert trial == "digits-{variant}-{activation}-s0".format(**run.data.params)
        assert run.data.params["workers"] == "2"
        assert run.data.metrics["time/images_per_second"] > 0


def test_metric_curves_have_every_epoch_once(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    client = cli.client()
    for run in cli.trial_runs(DEMO).values():
        for name in ("val/top1", "val/top5", "val/loss", "train/epoch_loss", "time/images_per_second"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert sorted(steps) == list(range(1, DEMO_EPOCHS + 1)), name
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
        assert len(steps) == len(set(steps)) >= 10 * DEMO_EPOCHS


def test_ray_tune_was_told_of_every_epoch(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    """A scheduler that ends poor trials early would decide by these."""
    for trial, run in cli.trial_runs(DEMO).items():
        file = cli.home / "experiments" / DEMO / "tune" / DEMO / trial / "result.json"
        told = [json.loads(line) for line in file.read_text().splitlines()]
        assert [result["epoch"] for result in told] == list(range(1, DEMO_EPOCHS + 1))
        logged = cli.client().get_metric_history(run.info.run_id, "val/top1")
        assert {(result["epoch"], result["val/top1"]) for result in told} == {(p.step, p.value) for p in logged}


def test_the_two_ranks_consumed_every_sample_of_the_order_once(
    cli: Cli, demo: subprocess.CompletedProcess[str]
) -> None:
    """The loop logs the receipt over both ranks; here it is computed again from the manifest alone."""
    manifest = Manifest.load(cli.home / "cache" / "digits-v1")
    order = EpochOrder(manifest.split("train").shard_samples, seed=0)
    consumed = len(manifest.split("train")) // 32 * 32
    positions = np.arange(consumed)
    client = cli.client()
    for run in cli.trial_runs(DEMO).values():
        assert run.data.tags["data.digest"] == manifest.digest
        assert run.data.metrics["train/samples"] == consumed
        assert run.data.metrics["val/samples"] == len(manifest.split("val"))
        high, low = (
            {point.step: int(point.value) for point in client.get_metric_history(run.info.run_id, f"receipt/{half}")}
            for half in ("high", "low")
        )
        for epoch in range(DEMO_EPOCHS):
            assert (high[epoch + 1] << 32) + low[epoch + 1] == receipt(positions, order.sample_ids(epoch)[:consumed])


def test_both_ranks_ended_every_epoch_with_the_same_parameters(
    cli: Cli, demo: subprocess.CompletedProcess[str]
) -> None:
    client = cli.client()
    for run in cli.trial_runs(DEMO).values():
        ranks = [point.value for point in client.get_metric_history(run.info.run_id, "check/ranks_equal")]
        assert ranks == [2.0] * DEMO_EPOCHS


def test_the_champion_classifies_images_through_pyfunc(
    cli: Cli, demo: subprocess.CompletedProcess[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = cli.services()["mlflow"]["url"]
    mlflow.set_tracking_uri(url)
    model = mlflow.pyfunc.load_model(f"models:/{DEMO}@champion")
    assert model.metadata.signature is not None
    assert model.metadata.saved_input_example_info is not None
    manifest = Manifest.load(cli.home / "cache" / "digits-v1")
    images, labels = validation_images(manifest)
    best = max(cli.trial_runs(DEMO).values(), key=lambda run: run.data.metrics["val/best_top1"])
    assert cli.client().get_model_version_by_alias(DEMO, "champion").run_id == best.info.run_id
    probabilities = model.predict(images)
    assert probabilities.shape == (len(labels), 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    # Images of 32 px go through without resizing, so the served model must repeat the trainer's own accuracy.
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx(best.data.metrics["val/best_top1"], abs=1e-9)
    # Any image size will do: a larger one is scaled down inside the model.
    enlarged = np.repeat(np.repeat(images[:64], 2, axis=1), 2, axis=2)
    assert (model.predict(enlarged).argmax(1) == labels[:64]).mean() >= 0.8


def test_every_trial_logged_a_model(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    client = cli.client()
    experiment = client.get_experiment_by_name(DEMO)
    models = client.search_logged_models(experiment_ids=[experiment.experiment_id])
    assert {model.source_run_id for model in models} == {run.info.run_id for run in cli.trial_runs(DEMO).values()}
    assert len(models) == len(TRIALS)


def test_list_and_logs_know_the_experiment(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    entry = next(e for e in json.loads(cli("list", "--json").stdout) if e["experiment"] == DEMO)
    assert (entry["state"], entry["trials"]) == ("completed", 4)
    whole = cli("logs", DEMO).stdout
    one = cli("logs", DEMO, LAST).stdout
    assert f"[{LAST}] epoch {DEMO_EPOCHS}/{DEMO_EPOCHS}" in one
    assert "leaky_relu" in whole
    assert "leaky_relu" not in one
    assert re.search(rf"^\(RayTrainWorker .*\) \S+ \S+ INFO +\[{re.escape(LAST)}\] epoch 1/{DEMO_EPOCHS}  ", one, re.M)
    assert re.search(r"^\d\S+ \S+ INFO +best: digits-", whole, re.M)
    for trial in TRIALS:  # Ray would leave out what two processes say at about the same time
        assert whole.count(f"[{trial}] epoch ") == DEMO_EPOCHS
    assert "RayDeprecationWarning" not in whole
    assert "No complete tensor found" not in whole
    followed = cli("logs", DEMO, "-f")
    assert (followed.stdout, followed.stderr) == (whole, "")


def test_a_taken_name_is_refused(cli: Cli, demo: subprocess.CompletedProcess[str]) -> None:
    done = cli("submit", "--variants", "b0", "--name", DEMO, check=False)
    assert done.returncode == 2
    assert f"resume {DEMO}" in done.stderr


def validation_images(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The validation split read by hand, without our loader: uint8 (N, H, W, 3) and labels (N,)."""
    split = manifest.split("val")
    images = []
    for shard, offset, size in zip(split.shard, split.offset, split.size, strict=True):
        data = Path(manifest.root, split.shards[shard].name).read_bytes()[offset : offset + size]
        images.append(np.array(decode_rgb(data)))
    return np.stack(images), np.array(split.label)


@pytest.mark.long
def test_make_demo_itself(cli: Cli) -> None:
    cli("submit", "--variants", "b0-b1", "--activations", "silu,leaky_relu", "--workers", "2", "--epochs", "7")
    (name,) = {entry["experiment"] for entry in json.loads(cli("list", "--json").stdout)} - {DEMO}
    rows = json.loads(cli("compare", name, "--format", "json").stdout)
    assert {row["outcome"] for row in rows} == {"completed"}
    assert max(row["top1"] for row in rows) >= 0.90
