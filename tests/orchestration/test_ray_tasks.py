"""A Ray cluster that is not there; what is built on one is tested through the command line."""

import socket

import pytest

from effnet_cluster.orchestration.errors import EngineError
from effnet_cluster.orchestration.ray_tasks import ray_tasks


def test_no_cluster_at_an_address_is_one_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(EngineError, match=f"Ray at {address}: no answer") as caught, ray_tasks(address):
        raise AssertionError("connected to nothing")
    assert "\n" not in str(caught.value)
