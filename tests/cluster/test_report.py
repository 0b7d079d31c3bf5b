"""`effnet-cluster report`: from a real MLflow server to a file."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from effnet_cluster.cluster.champion import look
from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiment, Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.datasets import EvalLoader, Manifest, prepare
from effnet_cluster.effnet import EfficientNet
from effnet_cluster.orchestration.plan import make_plan
from effnet_cluster.orchestration.report.contents import StudyAsked, VariantAsked
from effnet_cluster.orchestration.report.studies.sights import Sight
from effnet_cluster.orchestration.request import ExperimentRequest, reported
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.metric_log import MetricLog, MetricPoints
from effnet_cluster.orchestration.tracking.models import log_model
from effnet_cluster.orchestration.tracking.records import Outcome
from effnet_cluster.orchestration.training import metrics
from effnet_cluster.orchestration.training.classifier import NormalizedModel, ServedClassifier
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.model_facts import ModelFacts
from effnet_cluster.orchestration.training.settings import params_of

from .conftest import Cli, keep
from .test_cli import contents, is_one_line


def submitted(home: Home, mlflow_uri: str, shards: Manifest, name: str) -> Experiment:
    """An experiment of two trials at somebody else's MLflow, as `submit` records it."""
    fields = {"name": name, "variants": "b0", "seeds": [0, 1], "data": str(shards.root), "recipe": {"global_batch": 4}}
    plan = make_plan(ExperimentSpec.parse(fields), shards)
    request = ExperimentRequest(
        uid=f"uid-of-{name}", job=name, plan=plan, tracking_uri=mlflow_uri, storage="/x", cache_root="/x"
    )
    experiments = Experiments(home)
    experiment = experiments.new(
        request, Engines("http://127.0.0.1:1", mlflow_uri, local_ray=False, local_mlflow=False)
    )
    experiments.save(experiment)
    return experiment


def train(experiment: Experiment) -> None:
    """Log what two trials of two epochs would."""
    tracker, plan, spec = experiment.tracker, experiment.request.plan, experiment.request.spec
    sweep = tracker.ensure_sweep(params_of(spec), spec.to_yaml(), plan.data_digest)
    for number, trial in enumerate(plan.trials):
        job = TrainingJob(
            trial=trial,
            execution=spec.execution,
            data=spec.data,
            data_digest=plan.data_digest,
            storage="/x",
            cache_root="/x",
        )
        run = tracker.ensure_trial(job, sweep, predicted_s=60.0)
        for epoch, top1 in ((1, 0.75), (2, 0.5)):
            values = {metrics.EPOCH: epoch, metrics.TOP1: top1, metrics.BEST_TOP1: 0.75, metrics.EPOCH_LOSS: 1.0}
            MetricLog(tracker, run).log([MetricPoints(1_800_000_000_000 + epoch, [(epoch, values)])])
        tracker.finish(run, (Outcome.COMPLETED, Outcome.FAILED)[number], ("", "no <memory>")[number])
    tracker.finish(sweep, Outcome.FAILED)


def test_a_report_is_one_file_of_what_was_asked_and_logged(
    cli: Cli, home: Home, mlflow_uri: str, shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(submitted(home, mlflow_uri, shards, "reported"))
    before = contents(home)
    monkeypatch.chdir(tmp_path)
    result = cli("report", "reported", "reported")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tmp_path / 'reported.html'}\n", "")
    page = (tmp_path / "reported.html").read_text()
    for text in (
        "reported is failed: 1 completed, 1 failed.",
        "<dt>digest of the manifest</dt><dd>" + shards.digest,
        "8 to train on, 2 to validate with",
        "2: china, flower",
        "<dt>recipe</dt><dd>basic, 10 epochs, global batch 4</dd>",
        "no &lt;memory&gt;",
        "effnet-cluster submit --spec reported.yaml",
        "global_batch: 4",
        '<section id="accuracy">',
        '<section id="faults">',
    ):
        assert text in page, text
    assert '<section id="seeds">' not in page
    assert contents(home) == before  # it starts and leaves nothing


def test_an_experiment_that_has_not_begun_has_a_report_too(
    cli: Cli, home: Home, mlflow_uri: str, shards: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(home, mlflow_uri, shards, "unbegun")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    out = tmp_path / "new folder" / "a report.html"
    result = cli("report", "unbegun", "--out", out, "--open")
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert "unbegun is not started: 2 not started." in out.read_text()
    assert opened == [out.as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert "no web browser here" in cli("report", "unbegun", "--out", out, "--open").stderr


def test_the_best_model_is_shown_the_validation_images(
    cli: Cli, home: Home, mlflow_uri: str, photos: Path, tmp_path: Path
) -> None:
    manifest = prepare(photos, tmp_path / "own-shards")
    experiment = submitted(home, mlflow_uri, manifest, "champion")
    train(experiment)
    tracker, (trial, _) = experiment.tracker, experiment.request.plan.trials
    torch.manual_seed(0)
    network = EfficientNet(trial.model).eval()
    facts = ModelFacts(trial.model, experiment.request.plan.classes, trial.image_size, trial.eval_resize)
    served = ServedClassifier(network, trial.image_size, trial.eval_resize).eval()
    example = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    log_model(tracker, tracker.trials()[0].run_id, served, example, 0.75, facts.to_dict())
    out = tmp_path / "x.html"
    assert cli("report", "champion", "--out", out).exit_code == 0
    page = out.read_text()
    loader = EvalLoader(manifest, image_size=trial.image_size, resize=trial.eval_resize, batch_size=2)
    (batch,) = loader
    with torch.inference_mode():
        said = NormalizedModel(network)(batch.images).argmax(1)
    top1 = (said == batch.labels).double().mean().item()
    assert f"<dt>top-1</dt><dd>{top1:.4f}, logged as 0.7500</dd>" in page
    wrong = int((said != batch.labels).sum())
    assert wrong > 0  # else there is no picture to look for
    assert page.count("taken for") >= wrong
    assert page.count('src="data:image/jpeg;base64,') == 2 * wrong
    assert 'id="champion"' not in cli_report(cli, out, "champion", "--no-champion")
    # The same model in a study that compares where models look.
    asked = StudyAsked("cam", "", "", {"b1": VariantAsked("", 1, "none"), trial.variant: VariantAsked("base", 1, "it")})
    study = replace(reported(experiment.request, tracker), study=asked)
    (sight,) = look(home, experiment, study)
    assert isinstance(sight, Sight)
    assert (sight.model, sight.trial) == ("it", trial.trial_id)
    first = {int(label): number for number, label in reversed(list(enumerate(batch.labels.tolist())))}
    names = experiment.request.plan.classes
    expected = [(names[label], names[int(said[first[label]])]) for label in sorted(first)]
    assert [(view.target, view.predicted) for view in sight.views] == expected
    (tmp_path / "own-shards" / "manifest.json").unlink()
    assert "of photos-b0-silu-s0, could not be shown the validation images: " in cli_report(cli, out, "champion")
    assert "could not be shown the validation images: " in str(look(home, experiment, study))


def cli_report(cli: Cli, out: Path, *arguments: str) -> str:
    result = cli("report", *arguments, "--out", out)
    assert result.exit_code == 0, result.stderr
    return out.read_text()


def test_a_file_that_cannot_be_written_is_told_in_one_line(
    cli: Cli, home: Home, mlflow_uri: str, shards: Manifest, tmp_path: Path
) -> None:
    is_one_line(cli("report", "flowers", "--out", tmp_path), 2, f"--out {tmp_path}", "is a folder")
    is_one_line(cli("report", "flowers", "--price-per-hour", 2, "--out", tmp_path / "x"), 2, "no experiment 'flowers'")
    submitted(home, mlflow_uri, shards, "unwritten")
    file = tmp_path / "file"
    file.write_text("")
    is_one_line(cli("report", "unwritten", "--out", file / "x.html"), 1, str(file))


def test_a_server_that_is_away_is_told_and_nothing_is_written(
    cli: Cli, home: Home, closed_port: int, tmp_path: Path
) -> None:
    gone = f"http://127.0.0.1:{closed_port}"
    keep(home, "flowers", gone, gone)
    is_one_line(cli("report", "flowers", "--out", tmp_path / "x.html"), 1, gone)
    assert not (tmp_path / "x.html").exists()
