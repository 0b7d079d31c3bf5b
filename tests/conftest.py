"""What tests of several rooms share."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.services import Services

TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def token_of_ray() -> Iterator[None]:
    """Leave Ray's token and what Ray has read of it as they were: a later test of this process may start a Ray."""
    before = {name: os.environ[name] for name in TOKEN_VARIABLES if name in os.environ}
    yield
    for name in TOKEN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)
    if "ray._raylet" in sys.modules and not sys.modules["ray"].is_initialized():
        have_ray_read_its_token_again()


@pytest.fixture(scope="module")
def without_token() -> Iterator[None]:
    """A Ray that is started in this process asks for no token."""
    with pytest.MonkeyPatch.context() as patch:
        for name in TOKEN_VARIABLES:
            patch.delenv(name, raising=False)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        have_ray_read_its_token_again()
        yield
    have_ray_read_its_token_again()


def have_ray_read_its_token_again() -> None:
    """Ray reads mode and token once per process.

    If a server of Ray and this process have read different modes, the server takes this process for dead, and each
    actor of it dies before it starts.
    """
    from ray._private.authentication_test_utils import reset_auth_token_state

    reset_auth_token_state()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: at the sizes of tests more gain nothing, and the order of sums is always the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server over SQLite, as the command line starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    services = Services(Home(tmp_path_factory.mktemp("home")))
    try:
        yield services.ensure_mlflow(port).url
    finally:
        services.stop("mlflow")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server on this machine, to which the S3 addresses of this process lead."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    moto = server.ThreadedMotoServer(port=0)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield boto3.client("s3", region_name="us-east-1")
    finally:
        moto.stop()
