"""Small real data, and one real MLflow server for the tests of tracking."""

import itertools
import os

import pytest

from effnet_cluster.datasets import Manifest, prepare, prepare_digits
from effnet_cluster.orchestration.plan import Plan
from effnet_cluster.orchestration.tracking.runs import Tracker
from effnet_cluster.orchestration.training.job import TrainingJob
from effnet_cluster.orchestration.training.settings import params_of

from ..photos import cut_photos

os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "20"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return prepare_digits(tmp_path_factory.mktemp("digits") / "shards")


@pytest.fixture(scope="session")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Photographs whose shorter side is at least B0's 224 pixels."""
    root = tmp_path_factory.mktemp("large")
    return prepare(cut_photos(root / "photos", (230, 300), 5), root / "shards")


_numbers = itertools.count()


@pytest.fixture
def tracker(mlflow_uri: str) -> Tracker:
    """A tracker of an experiment of this test's own."""
    number = next(_numbers)
    return Tracker(mlflow_uri, f"test-{number}", f"uid-{number}")


def ensure_sweep(tracker: Tracker, plan: Plan) -> str:
    """The sweep's run, as the driver makes it."""
    return tracker.ensure_sweep(params_of(plan.spec), plan.spec.to_yaml(), plan.data_digest)


def job_of(plan: Plan, number: int = 0) -> TrainingJob:
    """The job of one of a plan's trials, for what only records it: its folders do not exist."""
    return TrainingJob(
        trial=plan.trials[number],
        execution=plan.spec.execution,
        data=plan.spec.data,
        data_digest=plan.data_digest,
        storage="/nowhere",
        cache_root="/nowhere",
    )
