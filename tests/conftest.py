"""What tests of several rooms share."""

import socket
from collections.abc import Iterator

import pytest

from effnet_cluster.cluster.home import Home
from effnet_cluster.cluster.services import Services


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
