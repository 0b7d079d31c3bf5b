"""The embedded services: loopback only, idempotent, and clear about ports."""

from __future__ import annotations

from urllib.parse import urlsplit

import psutil
import pytest

from .conftest import Cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_everything_listens_on_loopback_alone(cli: Cli) -> None:
    for service in cli.services().values():
        process = psutil.Process(service["pid"])
        family = [process, *process.children(recursive=True)]
        listening = {
            connection.laddr.ip
            for member in family
            for connection in member.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


def test_up_again_changes_nothing(cli: Cli) -> None:
    before = cli.services()
    cli("up")
    assert cli.services() == before


def test_another_port_than_the_running_ones_is_refused(cli: Cli) -> None:
    port = urlsplit(cli.services()["mlflow"]["url"]).port
    assert port is not None
    done = cli("up", "--mlflow-port", str(port + 1), check=False)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
