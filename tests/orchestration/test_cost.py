"""What a trial is predicted to take: from measured networks, by size, kind, batch and workers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.effnet.memory import estimate
from effnet_cluster.orchestration.sizing.cost import CostModel, TrialCost
from effnet_cluster.orchestration.training.job import TrialPlan
from effnet_cluster.orchestration.training.measured import MeasuredNetwork, Measurement

from .plans import planned

B0, B4 = planned("b0"), planned("b4")


def network(trial: TrialPlan, kind: str = "silu", fixed: float = 0.1, rate: float = 1e9) -> MeasuredNetwork:
    """A step takes a fixed time, and three passes' multiply-adds at a rate."""
    seconds = tuple(fixed + 3 * trial.macs * images / rate for images in (8, 32))
    return MeasuredNetwork(
        macs=trial.macs,
        kind=kind,
        images=(8, 32),
        seconds=seconds,
        eval_seconds=trial.macs / rate,
        load_seconds=0.001,
    )


def measured(*networks: MeasuredNetwork, **facts: Any) -> CostModel:
    found = networks or (network(B0), network(B4))
    return CostModel(key="k", measured=Measurement(use_gpu=False, cpus=1, networks=found, **facts), val_samples=100)


def cost(trial: TrialPlan, model: CostModel, workers: int = 1, **where: Any) -> TrialCost:
    return model.predict(trial, workers, where.pop("cpus", 1), where.pop("use_gpu", False), **where)


@pytest.mark.parametrize("name", ["b0", "b1", "b2", "b3", "b4"])
@pytest.mark.parametrize("batch", [8, 16, 32])
def test_what_is_linear_in_multiply_adds_and_images_is_predicted_exactly(name: str, batch: int) -> None:
    trial = planned(name, global_batch=batch, epochs=3)
    found = cost(trial, measured())
    step = 0.1 + 3 * trial.macs * batch / 1e9 + 0.001 * batch
    assert found.step_seconds == pytest.approx(step)
    assert found.steps == 3 * 44
    evaluation = 3 * 100 * (trial.macs / 1e9 + 0.001)
    assert found.epochs_seconds == pytest.approx(3 * 44 * step + evaluation)
    assert found.seconds == pytest.approx(found.start + found.epochs_seconds + found.end)
    assert found.worker_hours == pytest.approx((found.seconds - found.end) / 3600)


def test_an_activations_factor_is_that_of_the_network_it_was_measured_on() -> None:
    slower = network(B0, "prelu", fixed=0.2, rate=0.5e9)
    model = measured(network(B0), network(B4), slower)
    plain = cost(planned("b2"), model)
    assert cost(planned("b2", activation="prelu"), model).step_seconds == pytest.approx(
        plain.step_seconds * 2 - 0.001 * 32
    )
    assert cost(planned("b2", activation="elu"), model).step_seconds == plain.step_seconds, "nothing is known of it"


def test_more_workers_share_the_batch_and_pay_for_the_all_reduce() -> None:
    model = measured()
    one, two, four = (cost(B4, model, workers) for workers in (1, 2, 4))
    assert one.step_seconds > two.step_seconds > four.step_seconds
    assert one.step_seconds < 2 * two.step_seconds
    assert (two.micro_batch, two.accumulation, two.steps) == (16, 1, one.steps)
    assert one.worker_hours < two.worker_hours < four.worker_hours


def test_loaders_hide_their_work_behind_the_steps_as_far_as_it_goes() -> None:
    model = measured()
    alone = cost(B0, model).step_seconds
    hidden = cost(B0, model.model_copy(update={"loader_workers": 2})).step_seconds
    assert alone - hidden == pytest.approx(0.032)


def test_memory_is_what_the_estimate_says_and_a_rank_besides() -> None:
    found = cost(B4, measured())
    assert found.memory - estimate(B4.model, 32, B4.image_size).memory.total == 900 * 2**20
    assert found.gpu_memory == 0
    on_gpu = cost(B4, CostModel(), use_gpu=True)
    assert 0.5 < on_gpu.gpu_memory / estimate(B4.model, 32, B4.image_size).memory.total < 1


def test_a_node_with_little_memory_has_smaller_micro_batches() -> None:
    trial = planned("b4", image_size=224)
    roomy, tight = (cost(trial, measured(), node_memory=size * 2**30) for size in (64, 3))
    assert (roomy.micro_batch, roomy.accumulation) == (32, 1)
    assert tight.micro_batch < 32
    assert tight.micro_batch * tight.accumulation == 32
    assert tight.memory <= 3 * 2**30


def test_a_micro_batch_that_was_asked_for_is_taken() -> None:
    found = cost(planned("b0", micro_batch=10), measured())
    assert (found.micro_batch, found.accumulation) == (8, 4)


def test_finished_trials_correct_the_prediction() -> None:
    plain, taught = measured(), measured(factors=(1.4, 1.5, 9.0), starts=(5.0, 7.0), ends=(9.0,))
    before, after = cost(B0, plain), cost(B0, taught)
    assert after.epochs_seconds == pytest.approx(1.5 * before.epochs_seconds)
    assert (after.start, after.end) == (6.0, 9.0)
    assert cost(B0, taught.uncorrected()).epochs_seconds == pytest.approx(before.epochs_seconds)


def test_without_a_probe_larger_networks_take_longer_and_gpus_less() -> None:
    found = [cost(planned(f"b{number}"), CostModel()).step_seconds for number in range(8)]
    assert found == sorted(found)
    assert cost(B4, CostModel(), use_gpu=True).step_seconds < cost(B4, CostModel()).step_seconds


POSITIVE = st.floats(1e-4, 1e3)


@given(
    st.lists(st.tuples(st.integers(1, 64), POSITIVE), min_size=1, max_size=2, unique_by=lambda one: one[0]),
    st.integers(1, 256),
)
def test_a_step_never_takes_less_than_nothing_and_more_images_never_less_time(
    tried: list[tuple[int, float]], images: int
) -> None:
    tried.sort()
    sizes, seconds = zip(*tried, strict=True)
    found = MeasuredNetwork(macs=1, kind="silu", images=sizes, seconds=seconds, eval_seconds=0.0, load_seconds=0.0)
    assert 0 <= found.step_seconds(images) <= found.step_seconds(images + 1)
    assert found.step_seconds(sizes[-1]) == pytest.approx(seconds[-1])


def test_what_is_missing_is_measured_and_what_is_known_is_not() -> None:
    nothing = Measurement(use_gpu=False, cpus=1)
    sweep = [planned(f"b{n}", activation=act) for n in range(5) for act in ("silu", "relu")]
    missing = nothing.missing(sweep)
    assert [(trial.variant, trial.model.activation) for trial in missing] == [
        ("b0", "silu"),
        ("b4", "silu"),
        ("b0", "relu"),
    ]
    known = nothing.model_copy(update={"networks": (network(B0), network(B4), network(B0, "relu"))})
    assert known.missing(sweep) == ()
    assert [trial.variant for trial in known.missing([*sweep, planned("b6"), planned("b7")])] == ["b7"]
    assert [trial.variant for trial in nothing.missing([B0, planned("b0", 1)])] == ["b0"]
