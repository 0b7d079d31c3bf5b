"""Numbers of DDP workers as people write them: one, a range, by variant, or left to the cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_cluster.effnet import VARIANTS
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import Execution
from effnet_cluster.orchestration.training.workers import WorkerRange, WorkersByVariant, workers_of

RANGES = st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda ends: WorkerRange(min(ends), max(ends)))
NAMED = st.dictionaries(st.sampled_from(sorted(VARIANTS)), RANGES, min_size=1).map(lambda found: tuple(found.items()))
BY_VARIANT = st.one_of(
    st.builds(WorkersByVariant, NAMED, st.none() | RANGES),
    st.builds(WorkersByVariant, NAMED | st.just(()), st.none(), st.just(True)),
)


def workers(text: object) -> Any:
    return Execution(workers=text).workers  # type: ignore[arg-type]


@given(RANGES | BY_VARIANT)
def test_what_is_written_is_read_again(given: WorkerRange | WorkersByVariant) -> None:
    execution = Execution(workers=given)
    assert workers(str(given)) == given
    assert Execution.model_validate(json.loads(execution.model_dump_json())) == execution


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b0-b3=1,b4-b6=2,b7=8", {"b0": (1, 1), "b3": (1, 1), "b4": (2, 2), "b6": (2, 2), "b7": (8, 8)}),
        ("1,b7=8", {"b0": (1, 1), "b6": (1, 1), "b7": (8, 8)}),
        (" b7 = 2:8 , 3 ", {"b0": (3, 3), "b7": (2, 8)}),
        ("auto", {"b0": None, "b7": None}),
        ("auto,b7=8", {"b0": None, "b7": (8, 8)}),
        ("B0-w1.40=2,1", {"b0-w1.4": (2, 2), "b0": (1, 1)}),
        ("4", {"b0": (4, 4)}),
        (4, {"b0": (4, 4)}),
        ("2:4", {"b0": (2, 4)}),
    ],
)
def test_each_variant_has_its_own_number(text: object, expected: dict[str, tuple[int, int] | None]) -> None:
    found = workers(text)
    assert {name: workers_of(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("b0=1,b0=2", "b0 has two numbers of workers"),
        ("b0-b3=1,b2=2", "b2 has two numbers of workers"),
        ("1,2", "'2' is a second number for all other variants"),
        ("auto,2", "'2' is a second number"),
        ("2,auto", "'auto' is a second number"),
        ("b3-b0=1", "runs backwards; write 'b0-3'"),
        ("b9=1", "b9"),
        ("b0=", "expected a number such as 4"),
        ("=3", ""),
        ("b0=0", "expected at least 1 worker"),
        ("b0=4:2", "4:2 runs backwards"),
        ("b0=two", "expected a number such as 4"),
        ("many", "auto, or numbers by variant such as b0-b3=1,b7=8"),
        (True, "expected a number"),
        (2.0, "expected a number"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(text: object, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        ExperimentSpec.parse({"name": "x", "variants": "b0", "execution": {"workers": text}})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variant_of_which_nothing_is_said_is_named() -> None:
    with pytest.raises(UserError) as caught:
        ExperimentSpec.parse({"name": "x", "variants": "b0-b2", "execution": {"workers": "b0-b1=1"}})
    assert "workers: nothing is said about b2; add b2=N, or a number for all others such as 1,b0=1" in str(caught.value)


def test_the_batch_is_shared_by_every_variants_workers() -> None:
    fields: dict[str, Any] = {"name": "x", "variants": "b0,b7", "recipe": {"global_batch": 32}}
    with pytest.raises(
        UserError, match="global batch 32 cannot be shared equally by any number of workers from 5 to 7"
    ):
        ExperimentSpec.parse(fields | {"execution": {"workers": "1,b7=5:7"}})
    spec = ExperimentSpec.parse(fields | {"execution": {"workers": "auto,b7=1:7"}})
    assert spec.execution.worker_counts("b0", 32) == (1, 2, 4, 8, 16, 32)
    assert spec.execution.worker_counts("b7", 32) == (1, 2, 4)
