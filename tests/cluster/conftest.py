"""Small real photographs, a home of the test's own, and a way to call the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effnet_cluster.cluster.cli import main
from effnet_cluster.cluster.home import Home
from effnet_cluster.datasets import Manifest, prepare

from ..photos import cut_photos

Cli = Callable[..., Result]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/{china,flower}/NN.jpg: five crops each, 80 to 120 pixels, of scikit-learn's photographs."""
    return cut_photos(tmp_path_factory.mktemp("source") / "photos", (80, 120), 5)


@pytest.fixture(scope="session")
def shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The photographs, prepared: eight to train on and two to validate with."""
    return prepare(photos, tmp_path_factory.mktemp("prepared") / "photo-shards")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home that does not exist yet, for this test's commands and their child processes."""
    monkeypatch.setenv("EFFNET_CLUSTER_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def cli(home: Home) -> Cli:
    """Call the command line in this process; stdout and stderr apart, anything unexpected raised."""

    def call(*arguments: object, **environment: str) -> Result:
        runner = CliRunner(env=environment)
        return runner.invoke(main, [str(a) for a in arguments], catch_exceptions=False, prog_name="effnet-cluster")

    return call
