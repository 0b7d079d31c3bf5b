"""What is written of sweeps and trials as MLflow parameters, and the typed values that are read back from there."""

import subprocess
import sys
import time
from typing import Annotated, Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param
from pydantic import Field

from effnet_cluster.datasets import Manifest
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.plan import Plan, make_plan
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.tracking.exchanges import note_exchange
from effnet_cluster.orchestration.tracking.metric_log import MetricLog, MetricPoints
from effnet_cluster.orchestration.tracking.records import Outcome, trial_params
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.training import metrics
from effnet_cluster.orchestration.training.execution import Execution
from effnet_cluster.orchestration.training.recipes import Recipe
from effnet_cluster.orchestration.training.settings import params_of

from .conftest import ensure_sweep, job_of

FIELDS = {
    "name": "x",
    "variants": "b1",
    "activations": "elu",
    "seeds": [4],
    "recipe": {"global_batch": 24, "tail": "carry"},
    "execution": {"workers": "2:4", "on_corrupt": "skip"},
}


def planned(digits: Manifest, **fields: Any) -> Plan:
    return make_plan(ExperimentSpec.parse(FIELDS | fields), digits)


def params(tracker: Tracker, run_id: str) -> dict[str, str]:
    return dict(MlflowClient(tracker.uri).get_run(run_id).data.params)


@pytest.mark.parametrize("shuffle_block", [None, 3])
def test_a_trial_is_read_back_as_it_was_planned(tracker: Tracker, digits: Manifest, shuffle_block: int | None) -> None:
    plan = planned(digits, shuffle_block=shuffle_block)
    (trial,) = plan.trials
    assert trial.shuffle_block == (shuffle_block or len(digits.splits["train"].shards))
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    (record,) = Tracker(tracker.uri, tracker.experiment, tracker.uid).trials()
    for name in ("trial_id", "variant", "seed", "image_size", "params", "macs", "shuffle_block"):
        assert getattr(record, name) == getattr(trial, name), name
        assert type(getattr(record, name)) is type(getattr(trial, name)), name
    assert (record.run_id, record.data_digest) == (run_id, digits.digest)
    assert (record.activation, record.shortcut) == ("elu", "residual")
    assert (record.global_batch, record.tail) == (24, "carry")
    assert (record.outcome, record.reason, record.model_uri) == (Outcome.RUNNING, "", None)


def test_what_a_trial_should_take_is_what_was_said_when_it_first_began(tracker: Tracker, digits: Manifest) -> None:
    plan = planned(digits, seeds=[4, 5])
    sweep, before = ensure_sweep(tracker, plan), time.time()
    for number, predicted in enumerate((12.34, None)):
        tracker.ensure_trial(job_of(plan, number), sweep, predicted)
        tracker.ensure_trial(job_of(plan, number), sweep, 99.0)  # it goes on after a fault
    first, second = tracker.trials()
    assert (first.predicted_seconds, second.predicted_seconds) == (12.3, 99.0)
    assert before - 0.01 <= (first.began or 0) <= (second.began or 0) <= time.time()
    assert (first.epochs_done, first.seconds, first.start_up, first.elapsed) == (0, 0, None, None)


def test_a_run_of_which_nobody_said_when_it_began_is_read_all_the_same(tracker: Tracker, digits: Manifest) -> None:
    plan = planned(digits)
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    MlflowClient(tracker.uri).delete_tag(run_id, "effnet.began")
    (record,) = tracker.trials()
    assert (record.began, record.start_up, record.predicted_seconds) == (None, None, None)


def test_an_exchange_is_noted_with_its_donor_and_what_it_changed(tracker: Tracker, digits: Manifest) -> None:
    plan = planned(digits)
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    before = {"lr": 0.03, "policy": "none", "erasing": 0.1}
    note_exchange(tracker, run_id, 1, 4, "x-b1-s0", before, before | {"lr": 0.008, "policy": "rand"})
    note_exchange(tracker, run_id, 2, 6, "x-b1-s2", before, before | {"erasing": 0.2})
    tags = MlflowClient(tracker.uri).get_run(run_id).data.tags
    assert {name: text for name, text in tags.items() if name.startswith("pbt")} == {
        "pbt.exchange.1": "epoch 4: weights of x-b1-s0; lr 0.03 → 0.008, policy none → rand",
        "pbt.exchange.2": "epoch 6: weights of x-b1-s2; erasing 0.1 → 0.2",
    }


def test_what_is_swept_is_read_back_of_each_trial_as_it_was_planned(tracker: Tracker, digits: Manifest) -> None:
    sweep = ["lr=1e-3,0.003", "clip_grad=none,1", "policy=none,rand", "compile=off,on", "epochs=5,10"]
    plan = planned(digits, search={"sweep": sweep})
    sweep_id = ensure_sweep(tracker, plan)
    assert params(tracker, sweep_id)["sweep"] == (
        "epochs=5,10 lr=0.001,0.003 clip_grad=None,1.0 policy=none,rand compile=False,True"
    )
    numbers = (0, 9, 31)
    runs = [tracker.ensure_trial(job_of(plan, number), sweep_id) for number in numbers]
    for number, run_id in zip(numbers, runs, strict=True):
        trial, record = plan.trials[number], tracker.trial(run_id)
        assert record.swept == trial.swept
        assert [type(value) for value in record.swept.values()] == [type(value) for value in trial.swept.values()]
        assert params(tracker, run_id)["lr"] == str(trial.recipe.lr)
        assert "swept" not in params(tracker, run_id)
        assert record.epochs == trial.recipe.epochs


def test_what_is_measured_is_none_first_and_then_that_of_the_latest_epoch(tracker: Tracker, digits: Manifest) -> None:
    plan = planned(digits)
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    (record,) = tracker.trials()
    assert (record.epochs_done, record.seconds) == (0, 0.0)
    assert {record.best_top1, record.top1, record.top5, record.epoch_loss, record.images_per_second} == {None}
    log = MetricLog(tracker, run_id)
    for epoch, top1 in ((1, 0.5), (2, 0.25)):
        measured = {
            metrics.EPOCH: epoch,
            metrics.TRAIN_SECONDS: 1.5 * epoch,
            metrics.BEST_TOP1: 0.5,
            metrics.TOP1: top1,
            metrics.TOP5: 0.875,
            metrics.EPOCH_LOSS: 2.0 / epoch,
            metrics.IMAGES_PER_SECOND: 80.0 + epoch,
        }
        log.log([MetricPoints(epoch, [(epoch, measured)])])
    (record,) = tracker.trials()
    assert (record.epochs_done, record.seconds, record.best_top1, record.top1) == (2, 3.0, 0.5, 0.25)
    assert (record.top5, record.epoch_loss, record.images_per_second) == (0.875, 1.0, 82.0)


def test_a_failed_trial_says_why_until_it_runs_again(tracker: Tracker, digits: Manifest) -> None:
    plan = planned(digits)
    run_id = tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    tracker.finish(run_id, Outcome.FAILED, "no memory")
    (record,) = tracker.trials()
    assert (record.outcome, record.reason) == (Outcome.FAILED, "no memory")
    tracker.ensure_trial(job_of(plan), ensure_sweep(tracker, plan))
    (record,) = tracker.trials()
    assert (record.outcome, record.reason) == (Outcome.RUNNING, "")


@pytest.mark.parametrize(("name", "value"), [("tail", None), ("seed", "none"), ("macs", "1.5")])
def test_a_run_of_another_version_is_told_in_one_line(
    tracker: Tracker, digits: Manifest, name: str, value: str | None
) -> None:
    written = {key: str(text) for key, text in trial_params(job_of(planned(digits))).items() if key != name}
    if value is not None:
        written[name] = value
    client = MlflowClient(tracker.uri)
    run = client.create_run(tracker.experiment_id, tags={"effnet.role": "trial", "effnet.trial": "t"})
    client.log_batch(run.info.run_id, params=[Param(key, text) for key, text in written.items()])
    with pytest.raises(UserError, match=f"^MLflow run {run.info.run_id} was not logged by this version") as caught:
        tracker.trials()
    assert (value or name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_new_field_is_a_parameter_without_another_edit(tracker: Tracker, digits: Manifest) -> None:
    class NewRecipe(Recipe):
        lookahead: Annotated[int, Field(description="steps to look ahead")] = 5

    class NewExecution(Execution):
        nice: Annotated[int, Field(description="priority of the ranks")] = 7

    class NewSpec(ExperimentSpec):
        recipe: NewRecipe = NewRecipe()
        execution: NewExecution = NewExecution()

    plan = planned(digits)
    recipe, execution = NewRecipe(), NewExecution()
    spec = NewSpec(**dict(plan.spec) | {"recipe": recipe, "execution": execution})
    trial = plan.trials[0].model_copy(update={"recipe": recipe})
    sweep_id = tracker.ensure_sweep(params_of(spec), "", plan.data_digest)
    run_id = tracker.ensure_trial(job_of(plan).model_copy(update={"trial": trial, "execution": execution}), sweep_id)
    for found in (params(tracker, sweep_id), params(tracker, run_id)):
        assert (found["lookahead"], found["nice"]) == ("5", "7")


def test_every_field_that_is_set_is_a_parameter_of_the_sweep_and_of_its_trials(
    tracker: Tracker, digits: Manifest
) -> None:
    plan = planned(digits)
    sweep_id = ensure_sweep(tracker, plan)
    of_sweep = params(tracker, sweep_id)
    of_trial = params(tracker, tracker.ensure_trial(job_of(plan), sweep_id))
    recipe, execution = plan.spec.recipe.model_dump(), plan.spec.execution.model_dump()
    assert of_trial.items() >= {"recipe": recipe.pop("name"), "workers": "2:4", "on_corrupt": "skip"}.items()
    for name, value in {**recipe, **execution}.items():
        if value is None:
            assert name not in of_sweep
        else:
            assert of_sweep[name] == of_trial[name] == str(value)
    assert (of_sweep["variants"], of_sweep["activations"], of_sweep["seeds"]) == ("b1", "elu", "4")
    # Left open in the recipe, settled by the plan.
    (trial,) = plan.trials
    assert float(of_trial["stochastic_depth"]) == trial.model.stochastic_depth
    assert float(of_trial["min_crop"]) == trial.min_crop


def test_no_two_settings_share_a_name() -> None:
    """Side by side, one would hide the other."""
    own = set(ExperimentSpec.model_fields) - {"recipe", "execution"}
    recipe = set(Recipe.model_fields) - {"name"} | {"recipe"}
    execution = set(Execution.model_fields)
    assert not own & recipe | own & execution | recipe & execution


def test_more_parameters_than_a_request_takes_all_arrive_and_what_was_lost_is_added(tracker: Tracker) -> None:
    many = {f"p{number}": number for number in range(250)}
    lost = tracker.ensure_sweep(dict(list(many.items())[:30]), "", "d")
    assert tracker.ensure_sweep(many, "", "d") == lost
    assert params(tracker, lost) == {name: str(number) for name, number in many.items()}


def test_what_is_there_already_stays(tracker: Tracker) -> None:
    """A resumed sweep may have other settings, of which MLflow takes no note."""
    run_id = tracker.ensure_sweep({"workers": "2"}, "first", "d")
    assert tracker.ensure_sweep({"workers": "1"}, "second", "d") == run_id
    assert params(tracker, run_id) == {"workers": "2"}


def test_the_drivers_part_of_tracking_loads_no_torch() -> None:
    """The driver and each trial's process would pay some 400 MB for it."""
    code = (
        "import sys; from effnet_cluster.orchestration.tracking import models, runs, sink\n"
        "runs.Tracker('http://127.0.0.1:9', 'x', 'u').client\n"
        "sys.exit('torch' in sys.modules or 'mlflow.pytorch' in sys.modules or 'mlflow' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
