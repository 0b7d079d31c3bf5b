"""Small real photographs, a home of the test's own, and a way to call the command line."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from effnet_cluster.cluster.cli import main
from effnet_cluster.cluster.engines import Engines
from effnet_cluster.cluster.experiments import Experiments
from effnet_cluster.cluster.home import Home
from effnet_cluster.datasets import Manifest, prepare
from effnet_cluster.orchestration.plan import Plan
from effnet_cluster.orchestration.request import ExperimentRequest
from effnet_cluster.orchestration.spec import ExperimentSpec

from ..conftest import TOKEN_VARIABLES, have_ray_read_its_token_again
from ..photos import cut_photos

Cli = Callable[..., Result]
TOKEN = "a" * 64
"""Of Ray, for tests that have one."""


@pytest.fixture
def known_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the token `TOKEN`."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    have_ray_read_its_token_again()


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
    monkeypatch.setenv("EFFNET_CLUSTER_SUBMIT_PROBE", "false")  # each home would measure this machine anew
    return Home(tmp_path / "home")


@pytest.fixture
def cli(home: Home) -> Cli:
    """Call the command line in this process; stdout and stderr apart, anything unexpected raised."""

    def call(*arguments: object, **environment: str) -> Result:
        runner = CliRunner(env=environment)
        return runner.invoke(main, [str(a) for a in arguments], catch_exceptions=False, prog_name="effnet-cluster")

    return call


@pytest.fixture
def saved(cli: Cli, shards: Manifest, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The settings that a dry run comes to."""

    def call(*flags: object, **environment: str) -> dict[str, Any]:
        path = tmp_path / "saved.yaml"
        result = cli("submit", "--dry-run", "--data", shards.root, "--save", path, *flags, **environment)
        assert result.exit_code == 0, result.stderr
        fields: dict[str, Any] = yaml.safe_load(path.read_text())
        return fields

    return call


def make_request(name: str, tracking_uri: str, data_digest: str = "0" * 64, **fields: Any) -> ExperimentRequest:
    """A request whose data nobody opened and whose trials nobody planned."""
    spec = ExperimentSpec.parse({"name": name, "variants": "b0", **fields})
    plan = Plan(spec=spec, trials=(), classes=("a", "b"), train_samples=100, val_samples=10, data_digest=data_digest)
    return ExperimentRequest(
        uid=f"uid-of-{name}", job=name, plan=plan, tracking_uri=tracking_uri, storage="/x", cache_root="/x"
    )


def keep(
    home: Home,
    name: str,
    address: str = "http://127.0.0.1:1",
    tracking_uri: str = "http://127.0.0.1:1",
    **fields: Any,
) -> None:
    """A record of an experiment that was submitted to engines of others."""
    engines = Engines(address, tracking_uri, local_ray=False, local_mlflow=False)
    experiments = Experiments(home)
    experiments.save(experiments.new(make_request(name, tracking_uri, **fields), engines))


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token of a user is who has none yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


@pytest.fixture
def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
